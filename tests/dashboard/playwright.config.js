// One household for all tests, one browser.
import { existsSync } from "node:fs";
import { defineConfig } from "@playwright/test";

const known = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const executablePath = known.find((path) => path && existsSync(path));

export default defineConfig({
  testDir: ".",
  workers: 1,
  timeout: 90_000,
  expect: { timeout: 20_000 },
  reporter: "list",
  use: {
    trace: "off",
    launchOptions: { executablePath, args: ["--no-sandbox"] },
  },
});
