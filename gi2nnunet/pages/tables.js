"use strict";
(function () {
  // Tables that go on at the right say so.
  const tables = Array.from(document.querySelectorAll(".wide"));
  const mark = () => tables.forEach((table) => table.classList.toggle("cut", table.scrollLeft + table.clientWidth < table.scrollWidth - 2));
  tables.forEach((table) => table.addEventListener("scroll", mark, { passive: true }));
  window.addEventListener("resize", mark);
  // The viewer fills its table later.
  const grown = new ResizeObserver(mark);
  tables.forEach((table) => grown.observe(table.firstElementChild));
  mark();
})();
