// Is this a bill of materials, by CycloneDX's own JSON schema? Standard input: the bill. Exit code 0, or 1 with what is
// wrong with it.
import { readFileSync } from "node:fs";
import Ajv from "ajv";
import addFormats from "ajv-formats";
import addMoreFormats from "ajv-formats-draft2019";

const place = new URL("node_modules/@cyclonedx/cyclonedx-library/res/schema/", import.meta.url);
const schema = (name) => JSON.parse(readFileSync(new URL(name, place), "utf8"));
const isReference = (text) => {
  try {
    return Boolean(new URL(text, "https://base.example/"));
  } catch {
    return false;
  }
};

const bill = JSON.parse(readFileSync(0, "utf8"));
if (!/^1\.\d$/.test(bill.specVersion)) throw new Error(`specVersion is ${bill.specVersion}`);
const ajv = new Ajv({ allErrors: true, strict: false });
addFormats(ajv);
addMoreFormats(ajv);
ajv.addFormat("iri-reference", isReference); // neither of them has it
for (const name of ["spdx", "jsf-0.82"]) {
  const file = `${name}.SNAPSHOT.schema.json`;
  ajv.addSchema(schema(file), `http://cyclonedx.org/schema/${file}`);
}
const valid = ajv.compile(schema(`bom-${bill.specVersion}.SNAPSHOT.schema.json`));
if (!valid(bill)) {
  for (const fault of valid.errors) console.log(`${fault.instancePath} ${fault.message} ${JSON.stringify(fault.params)}`);
  process.exit(1);
}
