// A page in the browser, and the complaints of the browser about it.

// Every wait is bounded.
export const WAIT_MS = 20_000;

export class WatchedPage {
  // Exceptions in the page's script, and messages in the console that are complaints.
  complaints = [];

  // `isComplaint` decides about a message in the console: its kind and its text.
  constructor(page, url, isComplaint) {
    this.page = page;
    this.url = url;
    page.setDefaultTimeout(WAIT_MS);
    page.on("pageerror", (error) => this.complaints.push(String(error)));
    page.on("console", (message) => {
      if (isComplaint(message.type(), message.text())) this.complaints.push(message.text());
    });
  }

  screenshot(path) {
    return this.page.screenshot({ path, fullPage: true });
  }
}
