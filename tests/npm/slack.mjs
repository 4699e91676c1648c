// Are these Slack messages, by the types that Slack publishes? Standard input: a JSON list of messages of an incoming
// webhook. Exit code 0, or 1 with the compiler's complaints.
import { readFileSync } from "node:fs";
import ts from "typescript";

const messages = JSON.parse(readFileSync(0, "utf8"));
const NAME = new URL("messages.ts", import.meta.url).pathname; // beside node_modules; it is in memory only
const text = `import type { KnownBlock } from "@slack/types";
interface Message { text: string; blocks: KnownBlock[] }
export const messages: Message[] = ${JSON.stringify(messages, null, 1)};
`;
const options = {
  strict: true, noEmit: true, module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext,
  target: ts.ScriptTarget.ES2022, types: [], lib: ["lib.es2015.d.ts"], skipLibCheck: true,
};
const host = ts.createCompilerHost(options);
const { getSourceFile, fileExists, readFile } = host;
host.getSourceFile = (name, ...rest) =>
  name === NAME ? ts.createSourceFile(name, text, ts.ScriptTarget.ES2022) : getSourceFile(name, ...rest);
host.fileExists = (name) => name === NAME || fileExists(name);
host.readFile = (name) => (name === NAME ? text : readFile(name));
const complaints = ts.getPreEmitDiagnostics(ts.createProgram([NAME], options, host));
for (const complaint of complaints) console.log(ts.flattenDiagnosticMessageText(complaint.messageText, "\n"));
process.exit(complaints.length > 0 ? 1 : 0);
