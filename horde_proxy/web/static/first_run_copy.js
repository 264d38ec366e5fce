// Copy buttons of the first run: data-copies names the element whose text is copied.
import { $, copy, tell } from "./elements.js";

document.documentElement.classList.add("js");
for (const button of document.querySelectorAll("[data-copies]")) {
  button.addEventListener("click", async () => {
    try {
      await copy($(button.dataset.copies).textContent.trim());
      tell("copied", "Copied.");
    } catch {
      tell("copied", "The browser does not allow copying. Mark the text instead.");
    }
  });
}
