// Takes the recipe's schema, and what it refers to, out of the API's description: the form of a new job is drawn from it.
import { readFileSync, writeFileSync } from "node:fs";

const { schemas } = JSON.parse(readFileSync("../../../proto/openapi.json", "utf8")).components;
const wanted = {};
function take(name) {
  if (wanted[name] !== undefined) return;
  wanted[name] = schemas[name];
  for (const [, inner] of JSON.stringify(schemas[name]).matchAll(/#\/components\/schemas\/(\w+)"/g)) take(inner);
}
take("Recipe");
writeFileSync("src/api/recipe.schema.json", `${JSON.stringify(wanted)}\n`);
