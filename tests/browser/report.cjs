// Opens a report in Chromium, checks it, and takes its pictures: node report.cjs REPORT FOLDER
// NODE_PATH names the folder with playwright-core and axe-core, CHROMIUM the browser.
"use strict";
const fs = require("fs");
const path = require("path");
const { chromium } = require("playwright-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const [report, folder] = process.argv.slice(2);
const address = "file://" + path.resolve(report);
const quiet = ["no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update", "disable-sync", "no-first-run"];
const wrong = [];

async function open(browser, options) {
  const page = await (await browser.newContext(options)).newPage();
  page.on("console", (line) => wrong.push(`console: ${line.text()}`));
  page.on("pageerror", (error) => wrong.push(`error: ${error}`));
  page.on("request", (request) => request.url() === address || wrong.push(`request: ${request.url()}`));
  await page.goto(address, { waitUntil: "load" });
  return page;
}

async function check(browser, colorScheme, width) {
  const seen = await open(browser, { colorScheme, viewport: { width, height: 850 } });
  const ms = await seen.evaluate(() => performance.getEntriesByType("navigation")[0].loadEventEnd);
  const wider = await seen.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  if (wider > 0) wrong.push(`${width} px: ${wider} px wider than the window`);
  await seen.context().close();
  // axe is a script of its own, which the page's policy does not allow
  const page = await open(browser, { colorScheme, viewport: { width, height: 850 }, bypassCSP: true });
  await page.evaluate(axe);
  await page.evaluate(() => document.querySelectorAll("details").forEach((d) => (d.open = true)));
  for (const name of await page.$$eval("input[name=colouring]", (all) => all.map((one) => one.id))) {
    await page.check("#" + name);
    await page.focus(".tokens");
    await page.keyboard.press("End");
    const shown = await page.textContent("#token-panel");
    if (!shown.includes("rank")) wrong.push(`the keyboard shows no token: ${shown}`);
    const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
    for (const v of violations) wrong.push(`axe, ${colorScheme}, ${width} px, ${name}: ${v.id}: ${v.nodes[0].html.slice(0, 120)}`);
  }
  await page.context().close();
  console.log(`${colorScheme}, ${width} px: loaded in ${Math.round(ms)} ms`);
}

async function picture(browser, name, colorScheme, width, height, prepare) {
  const page = await open(browser, { colorScheme, viewport: { width, height }, deviceScaleFactor: width < 500 ? 2 : 1, reducedMotion: "reduce" });
  if (prepare) await prepare(page);
  await page.screenshot({ path: path.join(folder, name + ".png") });
  await page.context().close();
}

const to = (name) => (page) => page.evaluate((id) => document.getElementById(id).scrollIntoView(), name);
const surprising = async (page) => {
  await to("tokens")(page);
  const token = page.locator(".t.r2, .t.r1").nth(8);
  if (await token.count()) await token.click();
};

(async () => {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: quiet.map((a) => "--" + a) });
  for (const scheme of ["light", "dark"]) for (const width of [1200, 390]) await check(browser, scheme, width);
  await picture(browser, "report", "light", 1200, 1060);
  await picture(browser, "report-tokens", "light", 1200, 800, surprising);
  await picture(browser, "report-dark", "dark", 1200, 900, to("run"));
  await picture(browser, "report-phone", "dark", 390, 844, surprising);
  await browser.close();
  for (const line of new Set(wrong)) console.error(line);
  process.exitCode = wrong.length ? 1 : 0;
})();
