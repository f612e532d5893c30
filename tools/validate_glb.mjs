// Run the Khronos glTF validator on files and print one JSON report per line.
//
//   npm install --no-save --prefix build/validator gltf-validator
//   NODE_PATH=build/validator/node_modules node tools/validate_glb.mjs head.glb ...
//
// Exit code 1 when a file has errors or warnings.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, resolve } from "node:path";

const require = createRequire(import.meta.url);

function loadValidator() {
  const folders = (process.env.NODE_PATH ?? "build/validator/node_modules").split(delimiter);
  for (const folder of folders) {
    try {
      return require(resolve(folder, "gltf-validator"));
    } catch (error) {
      if (error.code !== "MODULE_NOT_FOUND") throw error;
    }
  }
  console.error("gltf-validator is missing: npm install --no-save --prefix build/validator gltf-validator");
  process.exit(3);
}

const validator = loadValidator();
let bad = 0;
for (const path of process.argv.slice(2)) {
  const report = await validator.validateBytes(new Uint8Array(readFileSync(path)), { uri: path });
  const { numErrors, numWarnings, numInfos, numHints, messages } = report.issues;
  console.log(JSON.stringify({ path, numErrors, numWarnings, numInfos, numHints, messages }));
  bad += numErrors + numWarnings;
}
process.exit(bad > 0 ? 1 : 0);
