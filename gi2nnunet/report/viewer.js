"use strict";
(function () {
  const element = (id) => document.getElementById(id);
  if (!element("v")) return;
  const colours = JSON.parse(element("v-organs").textContent);
  const ORGANS = Object.keys(colours), COLOURS = Object.values(colours);
  const EDGES = { axial: ["R", "L", "A", "P"], coronal: ["R", "L", "H", "F"], sagittal: ["A", "P", "H", "F"] };
  const views = ["axial", "coronal", "sagittal"];
  const DASHES = { solid: [], dashed: [5, 4], dotted: [1.6, 2.6] }; // CSS pixels
  const boxes = Array.from(document.querySelectorAll("[data-organ]"));
  const layerBoxes = Array.from(document.querySelectorAll("[data-layer]"));
  let scan = null, at = [0, 0, 0], request = 0;

  function load(address) {
    return new Promise((resolve, reject) => {
      const sheet = new Image();
      sheet.onload = () => resolve(sheet);
      sheet.onerror = reject;
      sheet.src = address;
    });
  }

  // Give the grey values of a sheet's tiles, slice after slice, each at the scan's size.
  function readSheet(described, sheet, [tall, wide]) {
    const [depth, height, width] = described.shape, values = new Uint8Array(depth * height * width);
    const canvas = document.createElement("canvas");
    canvas.width = width; canvas.height = height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    for (let z = 0; z < depth; z++) {
      const column = z % described.columns, row = Math.floor(z / described.columns);
      context.drawImage(sheet, column * wide, row * tall, wide, tall, 0, 0, width, height);
      const pixels = context.getImageData(0, 0, width, height).data;
      for (let i = 0, to = z * height * width; i < pixels.length; i += 4) values[to++] = pixels[i];
    }
    return values;
  }

  function open(index) {
    const mine = ++request;
    // Each scan is an element of its own, so that only what is looked at is parsed.
    const described = JSON.parse(element("v-data-" + index).textContent);
    element("v-error").textContent = "";
    const show = ([image, ...sheets]) => {
      if (mine !== request) return; // another scan was chosen meanwhile
      const [depth, height, width] = described.shape;
      // A layer without masks of this scan has no codes.
      const layers = sheets.map((sheet) => sheet && readSheet(described, sheet, [height, width]).map((value) => value >> 5));
      scan = { about: described, grey: readSheet(described, image, described.tile), layers };
      at = middleOfOrgans();
      element("v-slice").max = depth - 1;
      element("v-window").textContent = "Window " + described.window[0] + " to " + described.window[1] +
        " (1st to 99.5th percentile of the scan). Voxels " + described.spacing.map((s) => s.toFixed(2)).join(" × ") + " mm (z, y, x).";
      layerBoxes.forEach((box, i) => { box.disabled = !layers[i]; });
      draw();
    };
    const fail = () => { element("v-error").textContent = "This browser cannot read the pictures in this page."; };
    Promise.all([load(described.image), ...described.layers.map((layer) => layer.masks && load(layer.masks))]).then(show, fail);
  }

  // Mean of one minus Dice of a slice, of the worst of the predictions; null for nothing to compare.
  function errorOf(z) {
    const errors = scan.about.layers.filter((layer) => layer.dice).map((layer) => {
      const known = layer.dice.map((d) => d[z]).filter((d) => d !== null);
      return known.length ? 1 - known.reduce((a, b) => a + b, 0) / known.length : null;
    }).filter((error) => error !== null);
    return errors.length ? Math.max(...errors) : null;
  }

  // The slice with the most organ voxels and their middle in it: a better start than an empty one.
  function middleOfOrgans() {
    const [depth, height, width] = scan.about.shape, plane = height * width;
    let best = [Math.floor(depth / 2), Math.floor(height / 2), Math.floor(width / 2)], most = 0;
    for (let z = 0; z < depth; z++) {
      let n = 0, rows = 0, columns = 0;
      for (let i = 0; i < plane; i++) if (scan.layers.some((codes) => codes && codes[z * plane + i])) { n++; rows += Math.floor(i / width); columns += i % width; }
      if (n > most) { most = n; best = [z, Math.round(rows / n), Math.round(columns / n)]; }
    }
    return best;
  }

  // Rows, columns, mm a pixel, and where voxel (row, column) lies.
  function planeOf(view) {
    const [depth, height, width] = scan.about.shape, [sz, sy, sx] = scan.about.spacing;
    if (view === "axial") return { rows: height, columns: width, dy: sy, dx: sx, axis: 0, index: (r, c) => (at[0] * height + r) * width + c, cross: [at[1], at[2]] };
    if (view === "coronal") return { rows: depth, columns: width, dy: sz, dx: sx, axis: 1, index: (r, c) => (r * height + at[1]) * width + c, cross: [at[0], at[2]] };
    return { rows: depth, columns: height, dy: sz, dx: sy, axis: 2, index: (r, c) => (r * height + c) * width + at[2], cross: [at[0], at[1]] };
  }

  function shownBits() {
    return boxes.reduce((bits, box) => bits | (box.checked ? 1 << Number(box.dataset.organ) : 0), 0);
  }

  function drawPlane(view) {
    const canvas = element("v-" + view), plane = planeOf(view), bits = shownBits();
    const { rows, columns } = plane, wide = Math.max(200, Math.round(canvas.clientWidth * (window.devicePixelRatio || 1)));
    const scale = wide / (columns * plane.dx), px = plane.dx * scale, py = plane.dy * scale;
    canvas.width = wide; canvas.height = Math.max(1, Math.round(rows * py));
    const small = document.createElement("canvas");
    small.width = columns; small.height = rows;
    const inner = small.getContext("2d"), pixels = inner.createImageData(columns, rows);
    const shown = scan.layers.map((codes, i) => codes && layerBoxes[i].checked ? new Uint8Array(rows * columns) : null);
    for (let r = 0, k = 0; r < rows; r++) for (let c = 0; c < columns; c++, k++) {
      const i = plane.index(r, c);
      pixels.data[4 * k] = pixels.data[4 * k + 1] = pixels.data[4 * k + 2] = scan.grey[i];
      pixels.data[4 * k + 3] = 255;
      shown.forEach((codes, layer) => { if (codes) codes[k] = scan.layers[layer][i] & bits; });
    }
    inner.putImageData(pixels, 0, 0);
    const context = canvas.getContext("2d"), line = canvas.width / canvas.clientWidth || 1;
    context.imageSmoothingEnabled = true;
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    shown.forEach((codes, layer) => {
      if (!codes) return;
      const dashes = DASHES[scan.about.layers[layer].line].map((length) => length * line);
      COLOURS.forEach((colour, organ) => {
        if (!(bits & (1 << organ))) return;
        const path = contourOf(codes, 1 << organ, rows, columns, px, py);
        context.setLineDash([]);
        context.strokeStyle = "rgba(0,0,0,.55)"; context.lineWidth = 3 * line;
        if (!dashes.length) context.stroke(path);
        context.setLineDash(dashes);
        context.strokeStyle = colour; context.lineWidth = 1.6 * line;
        context.stroke(path);
      });
    });
    context.setLineDash([]);
    drawMarks(context, canvas, view, plane, px, py, scale, line);
  }

  // The border between voxels, straight runs joined so that dashes show.
  function contourOf(codes, bit, rows, columns, px, py) {
    const path = new Path2D(), has = (r, c) => r >= 0 && c >= 0 && r < rows && c < columns && (codes[r * columns + c] & bit) !== 0;
    for (let r = 0; r <= rows; r++) for (let c = 0, from = -1; c <= columns; c++) {
      const edge = c < columns && has(r, c) !== has(r - 1, c);
      if (edge && from < 0) from = c;
      if (!edge && from >= 0) { path.moveTo(from * px, r * py); path.lineTo(c * px, r * py); from = -1; }
    }
    for (let c = 0; c <= columns; c++) for (let r = 0, from = -1; r <= rows; r++) {
      const edge = r < rows && has(r, c) !== has(r, c - 1);
      if (edge && from < 0) from = r;
      if (!edge && from >= 0) { path.moveTo(c * px, from * py); path.lineTo(c * px, r * py); from = -1; }
    }
    return path;
  }

  function drawMarks(context, canvas, view, plane, px, py, scale, line) {
    const w = canvas.width, h = canvas.height, [left, right, top, bottom] = EDGES[view];
    const y = (plane.cross[0] + .5) * py, x = (plane.cross[1] + .5) * px;
    context.strokeStyle = "rgba(255,255,255,.4)"; context.lineWidth = line;
    context.beginPath(); context.moveTo(0, y); context.lineTo(w, y); context.moveTo(x, 0); context.lineTo(x, h); context.stroke();
    context.font = "bold " + 14 * line + "px sans-serif"; context.lineWidth = 3 * line;
    const write = (text, tx, ty, align) => {
      context.textAlign = align; context.strokeStyle = "#000"; context.fillStyle = "#fff";
      context.strokeText(text, tx, ty); context.fillText(text, tx, ty);
    };
    write(left, 5 * line, h / 2, "left"); write(right, w - 5 * line, h / 2, "right");
    write(top, w / 2, 16 * line, "center"); write(bottom, w / 2, h - 6 * line, "center");
    const bar = 50 * scale; // 50 mm
    context.strokeStyle = "#000"; context.lineWidth = 5 * line;
    context.beginPath(); context.moveTo(8 * line, h - 8 * line); context.lineTo(8 * line + bar, h - 8 * line); context.stroke();
    context.strokeStyle = "#fff"; context.lineWidth = 2.5 * line; context.stroke();
    write("50 mm", 8 * line, h - 14 * line, "left");
  }

  function drawStrip() {
    element("v-strip").hidden = !scan.about.layers.some((layer) => layer.dice);
    const canvas = element("v-strip"), depth = scan.about.shape[0];
    canvas.width = Math.max(200, canvas.clientWidth); canvas.height = 60;
    const context = canvas.getContext("2d"), step = canvas.width / depth;
    for (let z = 0; z < depth; z++) {
      const error = errorOf(z);
      if (z === at[0]) { context.fillStyle = "#b9cdf0"; context.fillRect(z * step, 0, Math.max(step, 2), 60); }
      if (error === null) continue;
      context.fillStyle = "#8a1c1c";
      context.fillRect(z * step, 60 - Math.max(1, error * 60), Math.max(1, step - 1), 60);
    }
  }

  function draw() {
    if (!scan) return;
    const [depth] = scan.about.shape, number = scan.about.first + at[0];
    element("v-slice").value = at[0];
    element("v-slice").setAttribute("aria-valuetext", "slice " + number);
    element("v-number").textContent = "slice " + number + " (" + (at[0] + 1) + " of " + depth + ")";
    views.forEach(drawPlane);
    drawStrip();
    element("v-dice").replaceChildren(...scan.about.layers.slice(1).map((layer) => {
      const paragraph = document.createElement("p");
      paragraph.textContent = layer.dice
        ? "Dice of slice " + number + ", " + layer.name + ": " + ORGANS.map((organ, i) => {
          const d = layer.dice[i][at[0]];
          return organ.replace("_", " ") + " " + (d === null ? "– (both empty)" : d.toFixed(3));
        }).join(", ")
        : "No Dice: no " + (layer.masks ? scan.about.layers[0].name : layer.name) + " of this scan.";
      return paragraph;
    }));
  }

  function move(axis, by) {
    if (!scan) return;
    at[axis] = Math.max(0, Math.min(scan.about.shape[axis] - 1, at[axis] + by));
    draw();
  }

  views.forEach((view, axis) => {
    const canvas = element("v-" + view);
    let start = null;
    canvas.addEventListener("wheel", (event) => { event.preventDefault(); move(axis, Math.sign(event.deltaY)); }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e6, End: 1e6 };
      if (!(event.key in steps)) return;
      event.preventDefault();
      move(axis, steps[event.key]);
    });
    canvas.addEventListener("pointerdown", (event) => { start = { y: event.clientY, at: at[axis], moved: false }; canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointermove", (event) => {
      if (!start || !scan) return;
      const by = Math.round((event.clientY - start.y) / 4);
      if (by) start.moved = true;
      if (start.moved) move(axis, start.at + by - at[axis]);
    });
    canvas.addEventListener("pointerup", (event) => {
      if (start && !start.moved && scan) {
        const box = canvas.getBoundingClientRect(), plane = planeOf(view), others = [0, 1, 2].filter((a) => a !== axis);
        at[others[0]] = Math.max(0, Math.min(plane.rows - 1, Math.floor((event.clientY - box.top) / box.height * plane.rows)));
        at[others[1]] = Math.max(0, Math.min(plane.columns - 1, Math.floor((event.clientX - box.left) / box.width * plane.columns)));
        draw();
      }
      start = null;
    });
    canvas.addEventListener("pointercancel", () => { start = null; });
  });
  element("v-slice").addEventListener("input", (event) => { if (scan) move(0, Number(event.target.value) - at[0]); });
  element("v-strip").addEventListener("click", (event) => {
    if (!scan) return;
    const box = event.target.getBoundingClientRect();
    move(0, Math.floor((event.clientX - box.left) / box.width * scan.about.shape[0]) - at[0]);
  });
  document.querySelectorAll("a[data-scan]").forEach((link) => link.addEventListener("click", () => {
    element("v-scan").value = link.dataset.scan;
    open(Number(link.dataset.scan));
  }));
  element("v-scan").addEventListener("change", (event) => open(Number(event.target.value)));
  boxes.concat(layerBoxes).forEach((box) => box.addEventListener("change", draw));
  window.addEventListener("resize", draw);
  open(0);
})();
