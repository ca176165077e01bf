// Opens pages in Chromium: node pages.mjs CHROMIUM AXE.js PAGE... Prints a JSON line for each page and window.
import fs from "node:fs";
import puppeteer from "puppeteer-core";

const [, , chromium, axe, ...files] = process.argv;
const checks = fs.readFileSync(axe, "utf8");
const browser = await puppeteer.launch({ executablePath: chromium, args: ["--no-sandbox", "--disable-gpu"] });
const windows = [[1280, "light"], [1280, "dark"], [400, "light"], [400, "dark"]];

for (const file of files) {
  for (const [width, scheme] of windows) {
    const page = await browser.newPage();
    const said = [];
    const requests = [];
    page.on("console", (message) => said.push(message.text()));
    page.on("pageerror", (error) => said.push(String(error)));
    page.on("request", (request) => requests.push(request.url()));
    await page.setViewport({ width, height: 900 });
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    const start = performance.now();
    await page.goto(`file://${file}`, { waitUntil: "load" });
    const load = (performance.now() - start) / 1000;
    await page.screenshot({ path: file.replace(/\.html$/, `-${width}-${scheme}.png`), fullPage: true });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    // Each place that the tabulator reaches, in order: it must be seen, and lead on.
    const stops = await page.evaluate(() => 
      // What a closed fold holds is not reached, and should not be.
      [...document.querySelectorAll("a[href], summary, [tabindex='0']")].filter((each) => each.checkVisibility()).length);
    let reached = 0;
    for (let press = 0; press < Math.min(stops, 60); press++) {
      await page.keyboard.press("Tab");
      reached += await page.evaluate(() => document.activeElement !== document.body);
    }
    await page.evaluate(checks);
    const violations = await page.evaluate(async () =>
      (await axe.run()).violations.map((v) => `${v.id}: ${v.nodes.length} x ${v.nodes[0].html.slice(0, 120)}`));
    const others = requests.filter((url) => !url.startsWith("file:"));
    console.log(JSON.stringify({ file, width, scheme, load, wide, said, others, violations, reached, pressed: Math.min(stops, 60) }));
    await page.close();
  }
  const page = await browser.newPage();
  await page.setJavaScriptEnabled(false);
  await page.goto(`file://${file}`);
  await page.pdf({ path: file.replace(/\.html$/, ".pdf") });
  await page.close();
}
await browser.close();
