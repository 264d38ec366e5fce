// A form that is sent takes along what was typed into the others of its page, so that it is not lost
// when the page is shown again. Secrets are not among these fields: no page shows them again.
for (const form of document.forms) {
  form.addEventListener("submit", () => {
    for (const field of document.querySelectorAll("[data-kept]")) {
      if (field.value) field.setAttribute("form", form.id);
    }
  });
}
