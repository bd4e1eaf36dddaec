// The edge's claims about its machine, worded so that they promise no more than a page can verify.

import * as edge from "./edge.js";

const byId = (id) => document.getElementById(id);
const CLAIMS = {
  unknown: ["Not known yet", "The edge tells what it runs on to those who may send it pictures."],
  none: ["Not attested", "This edge has no attestation agent. Nothing proves what machine or program it is: you trust whoever runs it."],
  plain: ["Not attested", "This page came without TLS, so that there is no key to which evidence could be bound."],
  snp: [
    "Attested guest: SEV-SNP evidence present",
    "The edge claims to be a confidential guest, and gave an AMD SEV-SNP report for a number that this page drew. This page has not " +
      "verified it, and cannot: no browser shows a page the TLS key that the report is bound to. This command verifies it, before a picture leaves:",
  ],
  sample: ["Development runtime", "Its evidence is a sample, as the runtime for development gives it. It proves nothing and protects nothing."],
  other: ["Not attested", "The edge gave evidence of a kind that this page does not know. This command says what it is worth:"],
  later: ["No evidence for now", ""],
};

const FORGED = "software alone can forge the evidence of a Milan (arXiv 2605.12990: root seed of its VCEKs extracted), so it proves little";
const WARNINGS = {
  Milan: `Warning: this edge's processor is an AMD Milan, and ${FORGED}. Prefer an edge on Genoa or Turin.`,
  unknown: `Warning: this evidence does not name its processor. If it is an AMD Milan: ${FORGED}.`,
};

// Show the claim of a kind. `why` replaces its text. A broken processor gets a warning.
function tell(kind, why, product = "") {
  const [claim, words] = CLAIMS[kind];
  byId("attested").textContent = claim;
  byId("attested").dataset.kind = kind;
  byId("attested-why").textContent = why ?? words;
  byId("attested-warning").textContent = WARNINGS[product] ?? "";
  byId("attested-warning").hidden = !(product in WARNINGS);
  const how = byId("attested-how");
  how.hidden = kind !== "snp" && kind !== "other";
  how.textContent = `workbench recognize picture.jpg --edge ${location.origin} \\\n  --certs data/certs --policy policy.toml`;
}

export function kindOf(evidence) {
  const told = evidence !== null && typeof evidence === "object" ? evidence : {};
  if ("attestation_report" in told) return "snp";
  return "svn" in told && "report_data" in told ? "sample" : "other";
}

// Return the product of SEV-SNP evidence: "Milan", "other", or "unknown". The report's CPUID has it from version 3 on. In earlier
// versions a certificate of the chain has its name as text.
export function productOf(evidence) {
  const report = evidence?.attestation_report ?? {};
  const [family, model] = [report.cpuid_fam_id, report.cpuid_mod_id];
  if (report.version >= 3 && Number.isInteger(family) && Number.isInteger(model)) return family === 0x19 && model < 0x10 ? "Milan" : "other";
  const chain = Array.isArray(evidence?.cert_chain) ? evidence.cert_chain : [];
  const texts = chain.map((entry) => (Array.isArray(entry?.data) ? String.fromCharCode(...entry.data.slice(0, 8192)) : ""));
  if (texts.some((text) => text.includes("Milan"))) return "Milan";
  return texts.some((text) => /SEV-(VLEK-)?(Genoa|Turin)/.test(text)) ? "other" : "unknown";
}

// Request evidence, if the edge has an attestation agent, and show the result.
export async function attest(about) {
  const button = byId("attest");
  button.disabled = true;
  button.hidden = about?.attestation !== "agent";
  if (!about?.admitted) {
    tell("unknown");
    return;
  }
  if (about.attestation !== "agent") {
    tell(about.attestation === "plain" ? "plain" : "none");
    return;
  }
  try {
    const { evidence } = await edge.evidence();
    const kind = kindOf(evidence);
    tell(kind, undefined, kind === "snp" ? productOf(evidence) : "");
  } catch (error) {
    tell("later", `${error.message}. Nothing is known of this edge until it gives some.`);
  } finally {
    button.disabled = false;
  }
}

// Request evidence again if the last request failed. A failure may be transient.
export function attestAgain(about) {
  if (byId("attested").dataset.kind === "later" && !byId("attest").disabled) attest(about);
}

// List the edge's description of itself.
export function describe(about) {
  const rows = about?.admitted
    ? [["Edge", location.host], ["Model in the cloud", about.model], ["It knows", about.classes.join(", ")], ["Codec", about.codec], ["It looks at", `${about.size} × ${about.size} pixels`]]
    : [["Edge", location.host]];
  byId("about").replaceChildren(
    ...rows.flatMap(([name, value]) => {
      const [term, text] = [document.createElement("dt"), document.createElement("dd")];
      [term.textContent, text.textContent] = [name, value];
      return [term, text];
    }),
  );
}
