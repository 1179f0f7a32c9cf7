// What Sphinx's pages lack for the keyboard and for screen readers.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll('[role="heading"]:not([aria-level])').forEach((caption) => caption.setAttribute("aria-level", "2"));
  // Wide code and tables scroll, so the keyboard must reach them.
  document.querySelectorAll("pre, .table-wrapper, .cell_output").forEach((box) => { if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; });
});
