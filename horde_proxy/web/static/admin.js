// What is convenient on the admin's pages. They work without it.

document.documentElement.classList.add("js");

for (const button of document.querySelectorAll("[data-copies]")) {
  const text = document.getElementById(button.dataset.copies);
  button.addEventListener("click", async () => {
    const status = document.getElementById("copied");
    try {
      await navigator.clipboard.writeText(text.textContent);
      status.textContent = "Copied.";
    } catch {
      // Without https, browsers give no access to the clipboard: the text is selected instead.
      getSelection().selectAllChildren(text);
      status.textContent = "Press Ctrl+C to copy it.";
    }
  });
}
