// Keys in files, and tokens that the program makes with them, by the commands of the README.

import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

export class Keys {
  constructor({ folder, program }) {
    this.program = program;
    const file = (name) => {
      const path = join(folder, name);
      writeFileSync(path, `${randomBytes(48).toString("base64")}\n`);
      return path;
    };
    [this.subscribers, this.publishers, this.urls] = ["subscribers.key", "publishers.key", "urls.key"].map(file);
    this.options = ["--subscriber-keys", `hs256:${this.subscribers}`, "--publisher-keys", `hs256:${this.publishers}`];
    this.publisher = this.mint(this.publishers, "--publish", "*");
  }

  // A token with these grants.
  mint(key, ...grants) {
    return this.#run("mint", "--secret-file", key, ...grants);
  }

  // The query of a signed URL.
  url(...options) {
    return this.#run("url", "--secret-file", this.urls, ...options);
  }

  #run(...options) {
    return execFileSync(this.program, ["token", ...options], { encoding: "utf8" }).trim();
  }
}
