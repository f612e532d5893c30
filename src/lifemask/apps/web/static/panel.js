// The panel beside the head: what is shown, lights, sliders, numbers, downloads.

import { groupNames, plainName } from "./expressions.js";

const MODES = [
  ["skin", "Skin", "Skin, eyes and mouth in the chosen light"],
  ["color", "Colour only", "The texture without any light"],
  ["clay", "Clay", "The shape alone"],
  ["wire", "Wires", "The triangles of the mesh"],
  ["normals", "Normals", "Which way the surface faces, as colours"],
  ["doubt", "Doubt", "Where the method expects errors (PGN only)"],
];
const FILES = {
  "head.glb": ["3D head", "GLB with textures and 52 blendshapes, in metres"],
  "textures.zip": ["Textures", "PNG files: colour, normals, roughness"],
  "params.json": ["Numbers", "Pose, camera, landmarks, expression, light as JSON"],
  "preview.png": ["Preview", "A sheet of views as PNG"],
};

export const byId = (id) => document.getElementById(id);

/** An element with properties and children. */
function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** The tabs: click or arrow keys. */
export function setUpTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const choose = (chosen) => tabs.forEach((tab) => {
    tab.setAttribute("aria-selected", tab === chosen);
    tab.tabIndex = tab === chosen ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
  });
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(i + step + tabs.length) % tabs.length];
      choose(next);
      next.focus();
    });
  });
  choose(tabs[0]);
}

/** Buttons of which one is chosen; returns a function that chooses by value. */
export function setUpChips(element, choices, chosen) {
  const buttons = choices.map(([value, text, title]) => {
    const button = make("button", { textContent: text, title });
    button.dataset.value = value;
    button.setAttribute("role", "radio");
    button.addEventListener("click", () => chosen(value));
    return button;
  });
  element.replaceChildren(...buttons);
  return (value) => buttons.forEach((button) =>
    button.setAttribute("aria-checked", button.dataset.value === value));
}

export const setUpModes = (chosen) => setUpChips(byId("modes"), MODES, chosen);

/** The light's name for people: "low-sun" becomes "Low sun". */
export function lightChoices(lines) {
  const plain = (name) => (name[0].toUpperCase() + name.slice(1)).replace("-", " ");
  return [["photo", "Photo", "The light of the photo"],
    ...Object.entries(lines).map(([name, line]) => [name, plain(name), line])];
}

/** The sliders in groups; returns {show(weights)}. */
export function setUpSliders(names, moved) {
  const rows = new Map();
  const groups = groupNames(names).map(([title, own], i) => {
    const group = make("details", { open: i === 0 }, make("summary", { textContent: title }));
    for (const name of own) {
      const value = make("output", { textContent: "0" });
      const input = make("input", { type: "range", min: 0, max: 1, step: 0.01, value: 0, id: `w-${name}` });
      input.addEventListener("input", () => {
        value.textContent = Number(input.value).toFixed(2);
        moved(names.indexOf(name), Number(input.value));
      });
      const row = make("label", { className: "slider", title: name }, plainName(name), value, input);
      rows.set(name, { row, input, value });
      group.append(row);
    }
    return group;
  });
  byId("sliders").replaceChildren(...groups);
  byId("search").addEventListener("input", (event) => filter(event.target.value, rows, groups));
  return {
    show(weights) {
      names.forEach((name, i) => {
        const { input, value } = rows.get(name);
        input.value = weights[i];
        value.textContent = weights[i] < 0.005 ? "0" : weights[i].toFixed(2);
      });
    },
  };
}

function filter(text, rows, groups) {
  const wanted = text.trim().toLowerCase();
  rows.forEach(({ row }, name) => {
    row.hidden = wanted && !`${name} ${plainName(name)}`.toLowerCase().includes(wanted);
  });
  groups.forEach((group, i) => {
    const found = [...group.querySelectorAll(".slider")].some((row) => !row.hidden);
    group.hidden = !found;
    group.open = wanted ? found : i === 0;
  });
}

/** Pose, doubt, warnings and downloads of each head. */
export function showResults(set, heads, base) {
  const blocks = heads.map((head) => {
    const { view } = head;
    const block = make("div", { className: "head" }, make("h3", { textContent: view.label }));
    const table = make("table");
    for (const [name, value, title] of numbers(view, set)) {
      table.append(make("tr", { title }, make("td", { textContent: name }), make("td", { textContent: value })));
    }
    const files = make("div", { className: "downloads" });
    for (const name of view.downloads) {
      const [text, line] = FILES[name];
      const waiting = name !== "head.glb" && !head.packed;
      const link = make("a", {
        href: `${base}/${head.key}/${name}`, download: `${stem(set.photo)}-${head.key}-${name}`,
        title: line, className: (name === "head.glb" ? "main" : "") + (waiting ? " waiting" : ""),
      }, make("span", { textContent: text }), make("span", { textContent: name.split(".").pop().toUpperCase() }));
      files.append(link);
    }
    const warnings = view.warnings.map((line) => make("p", { className: "warning", textContent: line }));
    block.append(table, ...warnings, files);
    return block;
  });
  byId("result").replaceChildren(...blocks);
}

function numbers(view, set) {
  const angle = (value, [more, less]) =>
    `${Math.abs(value).toFixed(0)}° ${Math.abs(value) < 0.5 ? "" : value > 0 ? more : less}`.trim();
  const { pitch, yaw, roll } = view.pose_deg;
  return [
    ["Turned", angle(yaw, ["right", "left"]), "Yaw: to the picture's right or left"],
    ["Looks", angle(pitch, ["up", "down"]), "Pitch"],
    ["Leans", angle(roll, ["right", "left"]), "Roll, as the picture shows it"],
    ...(view.doubt_mm ? [["Expected error", `${view.doubt_mm[0]} mm`,
      `Half of the seen face is expected to be nearer to the truth than this; nine tenths nearer than ${view.doubt_mm[1]} mm`]] : []),
    ["Networks", `${view.weights}`, `Licence of the weights: ${set.licence}`],
    ["", set.licence, ""],
  ];
}

function stem(name) {
  return (name || "photo").replace(/\.[^.]*$/, "");
}
