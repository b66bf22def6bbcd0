// Sections through a map, drawn by Plotly from the voxels of the asymmetric unit that stand in the page.
// Geometry and decoding are those of report/slices.py, which writes the numbers.
const SCALES = {
  signed: [[0, "#053061"], [0.25, "#4393c3"], [0.5, "#f7f7f7"], [0.75, "#d6604d"], [1, "#67001f"]],
  plain: "Viridis",
};

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  return await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const scaled = (a, f) => a.map(x => x * f);

// Row of the table for each voxel of the box, with all symmetry mates; -1: not measured.
function expand(data, steps) {
  const [n0, n1, n2] = data.size.map(n => 2 * n + 1), [s0, s1, s2] = data.size;
  const rows = new Int32Array(n0 * n1 * n2).fill(-1);
  for (let i = 0, code = 0; i < steps.length; i++) {
    code += steps[i];
    const l = code % n2 - s2, k = Math.floor(code / n2) % n1 - s1, h = Math.floor(code / (n1 * n2)) - s0;
    for (const r of data.operators) {
      const a = h * r[0] + k * r[3] + l * r[6], b = h * r[1] + k * r[4] + l * r[7], c = h * r[2] + k * r[5] + l * r[8];
      rows[((a + s0) * n1 + b + s1) * n2 + c + s2] = i;
    }
  }
  return rows;
}

function interpolated(curve, s) {
  const {s: x, values: y} = curve;
  if (s <= x[0]) return y[0];
  let low = 0, high = x.length - 1;
  if (s >= x[high]) return y[high];
  while (high - low > 1) { const middle = (low + high) >> 1; if (x[middle] > s) high = middle; else low = middle; }
  return y[low] + (y[high] - y[low]) * (s - x[low]) / (x[high] - x[low]);
}

// The plane of a constant index: x along the first of the other two, y normal to it in the plane, 1/A.
function plane(data, axis) {
  const [u, v] = [0, 1, 2].filter(i => i !== axis);
  const [bu, bv, bw] = [u, v, axis].map(i => data.basis[i]); // one voxel's step
  const along = scaled(bu, 1 / Math.sqrt(dot(bu, bu)));
  let across = bv.map((x, i) => x - dot(bv, along) * along[i]);
  across = scaled(across, 1 / Math.sqrt(dot(across, across)));
  const normal = cross(along, across);
  const shear = dot(bv, along) / dot(bu, along);
  const fine = [1, 2].find(n => Math.abs(n * shear - Math.round(n * shear)) < 1e-3) || 4;
  return {u, v, axis, step: dot(bu, along), shear, rise: dot(bv, across), fine,
          shift: [dot(bw, along), dot(bw, across)], away: dot(bw, normal)};
}

function image(data, rows, p, layer, quantity, whole) {
  const wx = layer * p.shift[0], wy = layer * p.shift[1], z0 = layer * p.away, limit = data.s_max;
  const dx = p.step / p.fine, [nu, nv] = [data.size[p.u], data.size[p.v]];
  const first = Math.ceil((-limit - wx) / dx), last = Math.floor((limit - wx) / dx);
  const low = Math.max(-nv, Math.ceil((-limit - wy) / p.rise)), high = Math.min(nv, Math.floor((limit - wy) / p.rise));
  const strides = [(2 * data.size[1] + 1) * (2 * data.size[2] + 1), 2 * data.size[2] + 1, 1];
  const unit = (quantity.high - quantity.low) / 254;
  const x = [], y = [], z = [], indices = [];
  for (let i = first; i <= last; i++) x.push(i * dx + wx);
  for (let v = low; v <= high; v++) {
    const line = [], where = [], yv = v * p.rise + wy;
    y.push(yv);
    for (let i = first; i <= last; i++) {
      const u = Math.floor(i / p.fine - v * p.shear + 0.5 + 1e-9);
      let value = null;
      if (Math.abs(u) <= nu) {
        const at = (u + nu) * strides[p.u] + (v + nv) * strides[p.v] + (layer + data.size[p.axis]) * strides[p.axis];
        const code = rows[at] < 0 ? 0 : quantity.codes[rows[at]];
        if (code) {
          value = quantity.low + (code - 1) * unit;
          if (whole) { const xi = i * dx + wx; value += interpolated(quantity.isotropic, Math.sqrt(xi * xi + yv * yv + z0 * z0)); }
        }
      }
      line.push(value);
      where.push(u);
    }
    z.push(line);
    indices.push({v, where});
  }
  return {x, y, z, indices};
}

async function startSlices(place, data) {
  const steps = new Int32Array(await unpacked(data.steps));
  const rows = expand(data, steps);
  for (const quantity of data.quantities) quantity.codes = new Uint8Array(await unpacked(quantity.packed));
  const find = name => place.querySelector(`[data-role=${name}]`);
  const [choice, what, slider, shown, button, plot, pointed] =
    ["plane", "quantity", "layer", "index", "isotropic", "plot", "pointed"].map(find);
  const letters = "hkl";
  let whole = true, current = null;

  const draw = () => {
    const axis = Number(choice.value), layer = Number(slider.value), quantity = data.quantities[Number(what.value)];
    const p = plane(data, axis), withIsotropic = whole && Boolean(quantity.isotropic);
    current = {...image(data, rows, p, layer, quantity, withIsotropic), p, layer};
    const index = layer / data.ndiv[axis];
    shown.textContent = `${letters[axis]} = ${Number(index.toFixed(3))}`;
    button.hidden = !quantity.isotropic;
    button.textContent = whole ? "Remove the isotropic part" : "Show with the isotropic part";
    const limits = withIsotropic ? quantity.whole_limits : quantity.limits;
    const signed = quantity.signed && !withIsotropic;
    const trace = {
      type: "heatmap", x: current.x, y: current.y, z: current.z, zmin: limits[0], zmax: limits[1], hoverinfo: "none",
      colorscale: signed ? SCALES.signed : SCALES.plain, colorbar: {title: {text: quantity.label, side: "right"}},
    };
    const range = [-data.s_max, data.s_max];
    const layout = {
      height: 680, template: "none", margin: {l: 70, r: 20, t: 20, b: 55}, font: {size: 13}, plot_bgcolor: "#c8c8c8",
      uirevision: choice.value, hovermode: "closest",
      xaxis: {title: {text: `along ${letters[p.u]} (1/Å)`}, range, constrain: "domain", zeroline: false, showgrid: false},
      yaxis: {title: {text: `normal to ${letters[p.u]}, towards ${letters[p.v]} (1/Å)`}, range, constrain: "domain",
              scaleanchor: "x", zeroline: false, showgrid: false},
    };
    return Plotly.react(plot, [trace], layout, {responsive: true, displaylogo: false});
  };
  const setRange = () => {
    const most = data.size[Number(choice.value)];
    slider.min = -most;
    slider.max = most;
    slider.value = 0;
  };
  choice.addEventListener("change", () => { setRange(); draw(); });
  what.addEventListener("change", draw);
  slider.addEventListener("input", draw);
  button.addEventListener("click", () => { whole = !whole; draw(); });
  setRange();
  await draw();
  plot.on("plotly_hover", event => {
    const [row, column] = event.points[0].pointNumber, {p, layer} = current, found = current.indices[row], hkl = [0, 0, 0];
    hkl[p.u] = found.where[column] / data.ndiv[p.u];
    hkl[p.v] = found.v / data.ndiv[p.v];
    hkl[p.axis] = layer / data.ndiv[p.axis];
    const value = current.z[row][column], d = 1 / Math.sqrt(dot(...Array(2).fill(data.basis.reduce(
      (sum, b, i) => sum.map((x, j) => x + b[j] * hkl[i] * data.ndiv[i]), [0, 0, 0]))));
    const text = hkl.map(x => Number(x.toFixed(3))).join(", ");
    pointed.textContent = `h, k, l = ${text}; d = ${d.toPrecision(3)} Å; ${value === null ? "not measured" : value.toPrecision(4)}`;
  });
}
