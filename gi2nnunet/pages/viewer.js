"use strict";
(function () {
  const element = (id) => document.getElementById(id);
  if (!element("v")) return;
  const colours = JSON.parse(element("v-organs").textContent);
  const ORGANS = Object.keys(colours).map((organ) => organ.replace("_", " ")), COLOURS = Object.values(colours);
  const EDGES = { axial: ["R", "L", "A", "P"], coronal: ["R", "L", "H", "F"], sagittal: ["A", "P", "H", "F"] };
  const DASHES = { solid: [], dashed: [5, 4], dotted: [1.6, 2.6] }; // CSS pixels
  const ADDED = "#f052d6", LOST = "#ffe14d"; // of false positives and negatives, as in the style sheet
  const MOST_ZOOM = 16, WHEEL_STEP = 50;
  const views = ["axial", "coronal", "sagittal"];
  const boxesOf = (kind) => Array.from(document.querySelectorAll("#v [data-" + kind + "]"));
  const organBoxes = boxesOf("organ"), layerBoxes = boxesOf("layer"), wrongBoxes = boxesOf("wrong");
  const what = element("v-walk").dataset.what, nScans = element("v-scan").options.length;
  let scan = null, at = [0, 0, 0], request = 0, rank = -1;
  let zoom = 1, middle = [0, 0, 0], grey = { centre: 0, width: 1 }, wheeled = 0;

  const clamp = (value, least, most) => Math.max(least, Math.min(most, value));

  // ---- data

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

  // Open a scan at its worst slice, at the last one in the order of error, or at a slice's number.
  function open(index, last = false, number = 0) {
    const mine = ++request;
    // Each scan is an element of its own, so that only what is looked at is parsed.
    const described = JSON.parse(element("v-data-" + index).textContent);
    element("v-scan").value = index;
    element("v-error").textContent = "";
    const show = ([image, ...sheets]) => {
      if (mine !== request) return; // another scan was chosen meanwhile
      const [depth, height, width] = described.shape;
      // A layer without masks of this scan has no codes.
      const layers = sheets.map((sheet) => sheet && readSheet(described, sheet, [height, width]).map((value) => value >> 5));
      scan = { index, about: described, grey: readSheet(described, image, described.tile), layers };
      scan.order = orderSlices();
      element("v-slice").max = depth - 1;
      layerBoxes.forEach((box, i) => { box.disabled = !layers[i]; });
      wrongBoxes.forEach((box) => { box.disabled = !layers[0] || !layers.slice(1).some(Boolean); });
      element("v-window").textContent = "The window can be set within " + described.window[0] + " to " + described.window[1] +
        " (1st to 99.5th percentile of the scan): values outside are not in this page.";
      element("v-about").textContent = "Voxels " + described.spacing.map((s) => s.toFixed(2)).join(" × ") + " mm (z, y, x).";
      fillFacts();
      zoom = 1;
      resetWindow();
      const z = number - described.first, named = number ? scan.order.findIndex((one) => one.z === z) : -1;
      if (named >= 0) visit(named);
      else if (number) { rank = -1; at = middleOfOrgans(); look(at); move(0, z - at[0]); }
      else if (scan.order.length) visit(last ? scan.order.length - 1 : 0);
      else { rank = -1; at = middleOfOrgans(); look(at); draw(); }
    };
    const fail = () => { element("v-error").textContent = "This browser cannot read the pictures in this page."; };
    Promise.all([load(described.image), ...described.layers.map((layer) => layer.masks && load(layer.masks))]).then(show, fail);
  }

  // Volumes and distances, a row for each organ of each prediction.
  function fillFacts() {
    const predicted = scan.about.layers.slice(1);
    element("v-name").textContent = scan.about.id;
    element("v-facts").replaceChildren(...predicted.flatMap((layer) => ORGANS.map((organ, i) => {
      const row = document.createElement("tr"), head = document.createElement("th");
      head.scope = "row";
      head.textContent = (predicted.length > 1 ? layer.name + ": " : "") + organ;
      row.append(head, ...layer.facts[i].map((text) => {
        const cell = document.createElement("td");
        cell.textContent = text;
        if (/^[a-z]/.test(text)) cell.className = "odd"; // a word in place of a distance
        return cell;
      }));
      return row;
    })));
  }

  // ---- errors

  // One minus the mean Dice of a slice in one layer; null for nothing to compare.
  const errorOf = (layer, z) => layer.error ? layer.error[z] : null;

  // How bad a slice is: its error, or with two predictions how far their errors differ.
  function badnessOf(z) {
    const errors = scan.about.layers.slice(1).map((layer) => errorOf(layer, z) || 0);
    return errors.length > 1 ? Math.abs(errors[0] - errors[1]) : errors[0];
  }

  // The layers that are held against each other: truth and prediction, or two predictions; null if one has no masks.
  function findPair() {
    const pair = scan.layers.length > 2 ? scan.layers.slice(1, 3) : scan.layers.slice(0, 2);
    return pair.every(Boolean) ? pair : null;
  }

  // Voxels whose organs the two layers disagree about.
  function findWrong(pair, z) {
    const [, height, width] = scan.about.shape, plane = height * width;
    let n = 0, rows = 0, columns = 0;
    for (let i = 0, k = z * plane; i < plane; i++, k++) {
      if (pair[0][k] === pair[1][k]) continue;
      n++; rows += Math.floor(i / width); columns += i % width;
    }
    return n ? { z, n, place: [z, Math.round(rows / n), Math.round(columns / n)] } : null;
  }

  // Slices in which the two layers differ, the worst first, of equal ones that with the largest wrong area.
  function orderSlices() {
    const order = [], pair = findPair();
    for (let z = 0; pair && z < scan.about.shape[0]; z++) {
      const wrong = findWrong(pair, z);
      if (wrong) order.push({ ...wrong, badness: badnessOf(z) });
    }
    return order.sort((a, b) => b.badness - a.badness || b.n - a.n || a.z - b.z);
  }

  function visit(number) {
    rank = number;
    at = scan.order[rank].place.slice();
    look(at);
    draw();
  }

  // Go to the next slice in the order of error (by = 1) or the previous one, then to another scan.
  function walk(by) {
    if (!scan) return;
    const here = scan.order.findIndex((one) => one.z === at[0]);
    const next = here >= 0 ? here + by : rank < 0 ? 0 : rank; // from elsewhere back to where it was
    if (next >= 0 && next < scan.order.length) visit(next);
    else if (scan.index + by >= 0 && scan.index + by < nScans) open(scan.index + by, by < 0);
    else element("v-walk").textContent = by > 0 ? "This was the last " + what + " of the last scan on this page." : "This is the first " + what + " of the first scan on this page.";
  }

  function describeWalk() {
    const depth = scan.about.shape[0], n = scan.order.length, of = "scan " + (scan.index + 1) + " of " + nScans;
    const [sy, sx] = scan.about.spacing.slice(1), here = scan.order.findIndex((one) => one.z === at[0]);
    if (!findPair()) return "Nothing to compare in this scan (" + of + ").";
    if (!n) return "No slice of this scan has " + (what === "error" ? "an " : "a ") + what + " (" + of + ").";
    const rest = depth - n ? " Left out: " + (depth - n) + (depth - n > 1 ? " slices" : " slice") + " without." : "";
    const place = here < 0 ? "This slice has no " + what + "; the scan has " + n
      : (what === "error" ? "Error " : "Difference ") + (here + 1) + " of " + n + ", " +
        (scan.order[here].n * sy * sx).toFixed(0) + " mm² " + (what === "error" ? "wrong" : "differ");
    return place + " (" + of + ")." + rest;
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

  // ---- planes

  // Axes of rows and columns, their numbers, mm a pixel, and where voxel (row, column) lies.
  function planeOf(view) {
    const [depth, height, width] = scan.about.shape, [sz, sy, sx] = scan.about.spacing;
    if (view === "axial") return { rows: height, columns: width, dy: sy, dx: sx, axes: [1, 2], index: (r, c) => (at[0] * height + r) * width + c };
    if (view === "coronal") return { rows: depth, columns: width, dy: sz, dx: sx, axes: [0, 2], index: (r, c) => (r * height + at[1]) * width + c };
    return { rows: depth, columns: height, dy: sz, dx: sy, axes: [0, 1], index: (r, c) => (r * height + c) * width + at[2] };
  }

  // First row and column in sight, which are whole numbers only by chance.
  function cornerOf(plane) {
    const corner = (axis, n) => clamp(middle[axis] + .5 - n / zoom / 2, 0, n - n / zoom);
    return [corner(plane.axes[0], plane.rows), corner(plane.axes[1], plane.columns)];
  }

  // Move what is in sight, so that a voxel is in the middle if the scan's border allows it.
  function look(place) { middle = place.slice(); }

  function setZoom(value, plane = null, point = null) {
    if (!scan) return;
    const before = zoom;
    zoom = clamp(value, 1, MOST_ZOOM);
    if (plane && point) {
      // The voxel under the pointer stays there.
      const corner = cornerWith(plane, before);
      [plane.rows, plane.columns].forEach((n, i) => {
        const under = corner[i] + point[i] * n / before;
        middle[plane.axes[i]] = under - point[i] * n / zoom + n / zoom / 2 - .5;
      });
    } else if (before === 1) look(at);
    draw();
  }

  function cornerWith(plane, factor) {
    const kept = zoom;
    zoom = factor;
    const corner = cornerOf(plane);
    zoom = kept;
    return corner;
  }

  function pan(plane, rows, columns) {
    const corner = cornerOf(plane);
    [rows, columns].forEach((by, i) => {
      const n = i ? plane.columns : plane.rows;
      middle[plane.axes[i]] = clamp(corner[i] + by, 0, n - n / zoom) + n / zoom / 2 - .5;
    });
    draw();
  }

  const bitsOf = (boxes) => boxes.reduce((bits, box, i) => bits | (box.checked && !box.disabled ? 1 << i : 0), 0);

  // ---- window

  function resetWindow() {
    const [low, high] = scan.about.window;
    setWindow((low + high) / 2, high - low);
  }

  function setWindow(centre, width) {
    const [low, high] = scan.about.window, span = high - low || 1;
    grey = { centre: clamp(centre, low, high), width: clamp(width, span / 64, span) };
    element("v-centre").value = Math.round((grey.centre - low) / span * 255);
    element("v-width").value = Math.round(grey.width / span * 255);
    const digits = span >= 20 ? 0 : 3, spell = (value) => value.toFixed(digits);
    element("v-shown").textContent = "black " + spell(grey.centre - grey.width / 2) + ", white " + spell(grey.centre + grey.width / 2);
    element("v-centre").setAttribute("aria-valuetext", spell(grey.centre));
    element("v-width").setAttribute("aria-valuetext", spell(grey.width));
  }

  // Change the window by shares of the scan's own.
  function moveWindow(centre, width) {
    if (!scan) return;
    const span = scan.about.window[1] - scan.about.window[0];
    setWindow(grey.centre + centre * span, grey.width + width * span);
    draw();
  }

  function makeTones() {
    const [low, high] = scan.about.window, tones = new Uint8Array(256);
    for (let v = 0; v < 256; v++) {
      const value = low + v / 255 * (high - low);
      tones[v] = clamp(Math.round((value - grey.centre + grey.width / 2) / (grey.width || 1) * 255), 0, 255);
    }
    return tones;
  }

  // ---- drawing

  function drawPlane(view, tones) {
    const canvas = element("v-" + view), plane = planeOf(view), bits = bitsOf(organBoxes);
    if (!canvas.clientWidth) return; // not shown now
    const { rows, columns } = plane, wide = Math.max(200, Math.round(canvas.clientWidth * (window.devicePixelRatio || 1)));
    const scale = wide / (columns * plane.dx);
    canvas.width = wide; canvas.height = Math.max(1, Math.round(rows * plane.dy * scale));
    const [top, left] = cornerOf(plane), px = plane.dx * scale * zoom, py = plane.dy * scale * zoom;
    const frame = { px, py, x: -left * px, y: -top * py, scale: scale * zoom, line: canvas.width / canvas.clientWidth };
    const small = document.createElement("canvas");
    small.width = columns; small.height = rows;
    const inner = small.getContext("2d"), pixels = inner.createImageData(columns, rows);
    const planes = scan.layers.map((codes) => codes ? new Uint8Array(rows * columns) : null);
    for (let r = 0, k = 0; r < rows; r++) for (let c = 0; c < columns; c++, k++) {
      const i = plane.index(r, c);
      pixels.data[4 * k] = pixels.data[4 * k + 1] = pixels.data[4 * k + 2] = tones[scan.grey[i]];
      pixels.data[4 * k + 3] = 255;
      planes.forEach((codes, layer) => { if (codes) codes[k] = scan.layers[layer][i]; });
    }
    inner.putImageData(pixels, 0, 0);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = true;
    context.drawImage(small, frame.x, frame.y, columns * px, rows * py);
    drawWrong(context, planes, plane, frame);
    context.save();
    context.translate(frame.x, frame.y);
    planes.forEach((codes, layer) => { if (codes && layerBoxes[layer].checked) drawContours(context, codes, bits, layer, plane, frame); });
    context.restore();
    drawMarks(context, canvas, view, plane, frame);
  }

  function drawContours(context, codes, bits, layer, plane, { px, py, line }) {
    const dashes = DASHES[scan.about.layers[layer].line].map((length) => length * line);
    COLOURS.forEach((colour, organ) => {
      if (!(bits & (1 << organ))) return;
      const path = contourOf(codes, 1 << organ, plane.rows, plane.columns, px, py);
      context.setLineDash([]);
      context.strokeStyle = "rgba(0,0,0,.55)"; context.lineWidth = 3 * line;
      if (!dashes.length) context.stroke(path);
      context.setLineDash(dashes);
      context.strokeStyle = colour; context.lineWidth = 1.6 * line;
      context.stroke(path);
    });
  }

  // False positives as even areas, false negatives hatched.
  function drawWrong(context, planes, plane, frame) {
    const truth = planes[0], pred = planes[element("v-of") ? Number(element("v-of").value) : 1], bits = bitsOf(wrongBoxes);
    if (!bits || !truth || !pred) return;
    [[pred, truth, ADDED], [truth, pred, LOST]].forEach(([there, other, colour]) => {
      const mask = document.createElement("canvas"), area = document.createElement("canvas");
      mask.width = plane.columns; mask.height = plane.rows;
      area.width = context.canvas.width; area.height = context.canvas.height;
      const inner = mask.getContext("2d"), pixels = inner.createImageData(plane.columns, plane.rows);
      for (let k = 0; k < there.length; k++) if (there[k] & ~other[k] & bits) pixels.data[4 * k + 3] = 255;
      inner.putImageData(pixels, 0, 0);
      const paint = area.getContext("2d");
      paint.imageSmoothingEnabled = false;
      paint.drawImage(mask, frame.x, frame.y, plane.columns * frame.px, plane.rows * frame.py);
      paint.globalCompositeOperation = "source-in";
      paint.fillStyle = colour === LOST ? makeHatch(paint, frame.line) : colour;
      paint.fillRect(0, 0, area.width, area.height);
      context.globalAlpha = colour === LOST ? 1 : .6;
      context.drawImage(area, 0, 0);
      context.globalAlpha = 1;
    });
  }

  function makeHatch(context, line) {
    const tile = document.createElement("canvas"), side = Math.round(6 * line);
    tile.width = tile.height = side;
    const paint = tile.getContext("2d");
    paint.fillStyle = "rgba(0,0,0,.35)"; paint.fillRect(0, 0, side, side);
    paint.strokeStyle = LOST; paint.lineWidth = 2 * line;
    paint.beginPath();
    for (const shift of [-side, 0, side]) { paint.moveTo(shift, side); paint.lineTo(shift + side, 0); }
    paint.stroke();
    return context.createPattern(tile, "repeat");
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

  function drawMarks(context, canvas, view, plane, { px, py, x, y, scale, line }) {
    const w = canvas.width, h = canvas.height, [left, right, top, bottom] = EDGES[view];
    const crossY = (at[plane.axes[0]] + .5) * py + y, crossX = (at[plane.axes[1]] + .5) * px + x;
    context.setLineDash([]);
    context.strokeStyle = "rgba(255,255,255,.4)"; context.lineWidth = line;
    context.beginPath(); context.moveTo(0, crossY); context.lineTo(w, crossY); context.moveTo(crossX, 0); context.lineTo(crossX, h); context.stroke();
    context.font = "bold " + 14 * line + "px sans-serif"; context.lineWidth = 3 * line;
    const write = (text, tx, ty, align) => {
      context.textAlign = align; context.strokeStyle = "#000"; context.fillStyle = "#fff";
      context.strokeText(text, tx, ty); context.fillText(text, tx, ty);
    };
    write(left, 5 * line, h / 2, "left"); write(right, w - 5 * line, h / 2, "right");
    write(top, w / 2, 16 * line, "center"); write(bottom, w / 2, h - 6 * line, "center");
    const mm = [50, 20, 10, 5, 2, 1].find((length) => length * scale < w / 2) || 1, bar = mm * scale;
    context.strokeStyle = "#000"; context.lineWidth = 5 * line;
    context.beginPath(); context.moveTo(8 * line, h - 8 * line); context.lineTo(8 * line + bar, h - 8 * line); context.stroke();
    context.strokeStyle = "#fff"; context.lineWidth = 2.5 * line; context.stroke();
    write(mm + " mm", 8 * line, h - 14 * line, "left");
  }

  function drawStrip() {
    const canvas = element("v-strip"), depth = scan.about.shape[0], predicted = scan.about.layers.slice(1);
    canvas.hidden = !predicted.some((layer) => layer.dice);
    canvas.width = Math.max(200, canvas.clientWidth); canvas.height = 60;
    const context = canvas.getContext("2d"), step = canvas.width / depth, tall = 60 / predicted.length;
    for (let z = 0; z < depth; z++) {
      if (z === at[0]) { context.fillStyle = "#b9cdf0"; context.fillRect(z * step, 0, Math.max(step, 2), 60); }
      context.fillStyle = "#8a1c1c";
      predicted.forEach((layer, i) => {
        const error = errorOf(layer, z), bar = Math.max(1, error * tall);
        if (error !== null) context.fillRect(z * step, i ? tall : tall - bar, Math.max(1, step - 1), bar);
      });
    }
  }

  function draw() {
    if (!scan) return;
    const [depth] = scan.about.shape, number = scan.about.first + at[0], tones = makeTones();
    element("v-slice").value = at[0];
    element("v-slice").setAttribute("aria-valuetext", "slice " + number);
    element("v-number").textContent = "slice " + number + " (" + (at[0] + 1) + " of " + depth + ")";
    element("v-zoom").textContent = Math.round(zoom * 100) + " %";
    element("v-walk").textContent = describeWalk();
    views.forEach((view) => drawPlane(view, tones));
    drawStrip();
    element("v-dice").replaceChildren(...scan.about.layers.slice(1).map((layer) => {
      const paragraph = document.createElement("p");
      paragraph.textContent = layer.dice
        ? "Dice of slice " + number + ", " + layer.name + ": " + ORGANS.map((organ, i) => {
          const d = layer.dice[i][at[0]];
          return organ + " " + (d === null ? "– (both empty)" : d.toFixed(3));
        }).join(", ")
        : "No Dice: no " + (layer.masks ? scan.about.layers[0].name : layer.name) + " of this scan.";
      return paragraph;
    }));
  }

  // ---- mouse, fingers and keys

  function move(axis, by) {
    if (!scan) return;
    at[axis] = clamp(at[axis] + by, 0, scan.about.shape[axis] - 1);
    middle[axis] = at[axis];
    draw();
  }

  // Where a pointer is in a canvas, as shares of its height and width.
  function pointOf(canvas, event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width];
  }

  function click(view, canvas, event) {
    const plane = planeOf(view), corner = cornerOf(plane), point = pointOf(canvas, event);
    [plane.rows, plane.columns].forEach((n, i) => { at[plane.axes[i]] = clamp(Math.floor(corner[i] + point[i] * n / zoom), 0, n - 1); });
    draw();
  }

  // A drag with the left button or a finger: through the slices, or of the picture if it is zoomed.
  function drag(view, axis, canvas, start, event) {
    const dx = event.clientX - start.x, dy = event.clientY - start.y;
    if (Math.abs(dx) + Math.abs(dy) > 3) start.moved = true;
    if (!start.moved || start.scrolls) return;
    if (start.right) { setWindow(start.grey.centre + dy / 300 * start.span, start.grey.width + dx / 300 * start.span); draw(); return; }
    if (zoom > 1) {
      const plane = planeOf(view), box = canvas.getBoundingClientRect();
      middle = start.middle.slice();
      pan(plane, -dy / box.height * plane.rows / zoom, -dx / box.width * plane.columns / zoom);
    } else move(axis, start.at + Math.round(dy / 4) - at[axis]);
  }

  views.forEach((view, axis) => {
    const canvas = element("v-" + view), fingers = new Map();
    let start = null, spread = 0;
    canvas.addEventListener("wheel", (event) => {
      if (!scan) return;
      if (event.ctrlKey) { // a trackpad's pinch, too
        event.preventDefault();
        setZoom(zoom * Math.exp(-clamp(event.deltaY, -60, 60) / 150), planeOf(view), pointOf(canvas, event));
        return;
      }
      if (!canvas.parentNode.parentNode.contains(document.activeElement)) return; // scrolls the page
      event.preventDefault();
      wheeled += event.deltaMode ? WHEEL_STEP * Math.sign(event.deltaY) : event.deltaY;
      if (Math.abs(wheeled) >= WHEEL_STEP) { move(axis, Math.sign(wheeled)); wheeled = 0; }
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e6, End: 1e6 };
      if (event.key === "Escape") canvas.blur();
      if (!(event.key in steps) || !scan || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      const plane = planeOf(view), across = event.key === "ArrowLeft" || event.key === "ArrowRight", part = steps[event.key] / 8 / zoom;
      if (event.shiftKey && zoom > 1) pan(plane, across ? 0 : part * plane.rows, across ? part * plane.columns : 0);
      else move(axis, steps[event.key]);
    });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointerdown", (event) => {
      if (!scan) return;
      fingers.set(event.pointerId, event);
      canvas.setPointerCapture(event.pointerId);
      spread = 0;
      start = {
        x: event.clientX, y: event.clientY, at: at[axis], middle: middle.slice(), moved: fingers.size > 1, right: event.button === 2,
        grey, span: scan.about.window[1] - scan.about.window[0],
        scrolls: event.pointerType === "touch" && document.activeElement !== canvas, // the page
      };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!start || !scan) return;
      fingers.set(event.pointerId, event);
      if (fingers.size === 1) { drag(view, axis, canvas, start, event); return; }
      const [one, other] = fingers.values(), apart = Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      const halfway = { clientX: (one.clientX + other.clientX) / 2, clientY: (one.clientY + other.clientY) / 2 };
      if (spread) setZoom(zoom * apart / spread, planeOf(view), pointOf(canvas, halfway));
      spread = apart;
    });
    const release = (event) => {
      if (start && !start.moved && !start.right && scan && event.type === "pointerup") { canvas.focus({ preventScroll: true }); click(view, canvas, event); }
      fingers.delete(event.pointerId);
      if (fingers.size) start.moved = start.scrolls = true; // the rest of a pinch is no drag
      else start = null;
    };
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", release);
  });

  const KEYS = {
    n: () => walk(1), p: () => walk(-1), f: switchAreas, r: () => { resetWindow(); draw(); },
    w: () => moveWindow(0, .05), W: () => moveWindow(0, -.05), c: () => moveWindow(.03, 0), C: () => moveWindow(-.03, 0),
    "+": () => setZoom(zoom * 1.25), "=": () => setZoom(zoom * 1.25), "-": () => setZoom(zoom / 1.25), 0: () => setZoom(1),
  };
  function switchAreas() {
    const on = !wrongBoxes.some((box) => box.checked);
    wrongBoxes.forEach((box) => { box.checked = on; });
    draw();
  }
  // Keys work while the focus is in the viewer; a list takes letters itself.
  element("v").addEventListener("keydown", (event) => {
    if (!scan || event.ctrlKey || event.altKey || event.metaKey || event.target.tagName === "SELECT" || !Object.hasOwn(KEYS, event.key)) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  element("v-next").addEventListener("click", () => walk(1));
  element("v-previous").addEventListener("click", () => walk(-1));
  element("v-in").addEventListener("click", () => setZoom(zoom * 1.25));
  element("v-out").addEventListener("click", () => setZoom(zoom / 1.25));
  element("v-fit").addEventListener("click", () => setZoom(1));
  element("v-reset").addEventListener("click", KEYS.r);
  for (const id of ["v-centre", "v-width"]) element(id).addEventListener("input", () => {
    if (!scan) return;
    const [low, high] = scan.about.window, share = (name) => Number(element(name).value) / 255 * (high - low);
    setWindow(id === "v-centre" ? low + share(id) : grey.centre, id === "v-width" ? share(id) : grey.width);
    draw();
  });
  element("v-slice").addEventListener("input", (event) => { if (scan) move(0, Number(event.target.value) - at[0]); });
  element("v-strip").addEventListener("click", (event) => {
    if (!scan) return;
    const box = event.target.getBoundingClientRect();
    move(0, Math.floor((event.clientX - box.left) / box.width * scan.about.shape[0]) - at[0]);
  });
  document.querySelectorAll("a[data-scan]").forEach((link) => link.addEventListener("click", () => open(Number(link.dataset.scan), false, Number(link.dataset.slice || 0))));
  element("v-scan").addEventListener("change", (event) => open(Number(event.target.value)));
  organBoxes.concat(layerBoxes, wrongBoxes, element("v-of") || []).forEach((box) => box.addEventListener("change", draw));
  window.addEventListener("resize", draw);
  open(0);
})();
