// The 52 ARKit blendshapes for people: groups, plain names, and a little play.

const GROUPS = [
  ["Eyes", /^eye/], ["Brows", /^brow/], ["Jaw", /^jaw/], ["Mouth", /^mouth/],
  ["Cheeks and nose", /^(cheek|nose)/], ["Tongue", /^tongue/],
];

/** [group, names] for the names there are; what fits nowhere comes last. */
export function groupNames(names) {
  const left = new Set(names);
  const groups = GROUPS.map(([title, pattern]) => {
    const own = names.filter((name) => pattern.test(name));
    own.forEach((name) => left.delete(name));
    return [title, own];
  });
  groups.push(["Others", [...left]]);
  return groups.filter(([, own]) => own.length);
}

/** "mouthSmileLeft" becomes "Mouth smile left"; left is the person's own. */
export function plainName(name) {
  const words = name.replace(/([A-Z])/g, " $1").toLowerCase();
  return words[0].toUpperCase() + words.slice(1);
}

const both = (name, value) => ({ [`${name}Left`]: value, [`${name}Right`]: value });
const PLAY = [
  { ...both("mouthSmile", 0.85), ...both("cheekSquint", 0.5), ...both("eyeSquint", 0.3) },
  { jawOpen: 0.55, browInnerUp: 0.7, ...both("browOuterUp", 0.8), ...both("eyeWide", 0.7) },
  { ...both("eyeBlink", 1) },
  { mouthPucker: 0.9, jawLeft: 0.25 },
  { ...both("browDown", 0.9), ...both("noseSneer", 0.6), ...both("mouthFrown", 0.6) },
  { eyeBlinkLeft: 1, mouthSmileLeft: 0.7, cheekSquintLeft: 0.5 },
  { jawOpen: 0.7, tongueOut: 0.8 },
  { jawOpen: 0.2, mouthFunnel: 0.8 },
  {},
];
const STEP_S = 1.3;

/** Weights of the play at a time, eased from one face to the next. */
export function playWeights(names, seconds) {
  const place = seconds / STEP_S;
  const from = PLAY[(Math.floor(place) + PLAY.length - 1) % PLAY.length];
  const to = PLAY[Math.floor(place) % PLAY.length];
  const x = Math.min(1, (place % 1) / 0.55);
  const share = x * x * (3 - 2 * x);
  return names.map((name) => (from[name] || 0) * (1 - share) + (to[name] || 0) * share);
}
