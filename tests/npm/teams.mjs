// Are these Teams messages with Adaptive Cards in them? Standard input: a JSON list of messages of a workflow webhook.
// Exit code 0, or 1 with the complaints of the parser.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const cards = createRequire(import.meta.url)("adaptivecards/dist/adaptivecards.js") // its modules are for bundlers;
const complaints = [];
for (const message of JSON.parse(readFileSync(0, "utf8"))) {
  if (message.type !== "message" || message.attachments?.length !== 1) complaints.push("no message with one card");
  for (const { contentType, content } of message.attachments ?? []) {
    if (contentType !== "application/vnd.microsoft.card.adaptive") complaints.push(`content type ${contentType}`);
    const context = new cards.SerializationContext(cards.Versions.v1_4);
    const card = new cards.AdaptiveCard();
    card.parse(content, context);
    for (let n = 0; n < context.eventCount; n++) complaints.push(context.getEventAt(n).message);
    // What the parser does not know it leaves out: what it would write again has to be what was given.
    const again = card.toJSON(context);
    const count = (element) =>
      Array.isArray(element) ? element.reduce((sum, one) => sum + count(one), 0)
      : element !== null && typeof element === "object"
        ? Object.values(element).reduce((sum, one) => sum + count(one), typeof element.type === "string" ? 1 : 0) : 0;
    if (count(again) !== count(content)) complaints.push(`${count(content)} elements were given, ${count(again)} understood`);
    for (const fault of card.validateProperties().validationEvents) complaints.push(fault.message);
  }
}
for (const complaint of complaints) console.log(complaint);
process.exit(complaints.length > 0 ? 1 : 0);
