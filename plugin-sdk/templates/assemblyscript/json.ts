/**
 * Reads members of one flat JSON object, as a policy's configuration is: texts and numbers. The broker has checked that it is
 * JSON.
 */

export class Flat {
  private texts: Map<string, string> = new Map();
  private others: Map<string, string> = new Map();
  private at: i32 = 0;

  constructor(private source: string) {
    this.space();
    this.at++; // the brace
    while (this.at < source.length) {
      this.space();
      if (this.peek() != 0x22) break;
      const name = this.text();
      this.space();
      this.at++; // the colon
      this.space();
      if (this.peek() == 0x22) {
        this.texts.set(name, this.text());
      } else {
        const start = this.at;
        this.skip();
        this.others.set(name, source.substring(start, this.at).trim());
      }
      this.space();
      this.at++; // a comma, or the last brace
    }
  }

  has(name: string): bool {
    return this.texts.has(name) || this.others.has(name);
  }

  /** `null` when it is missing or is no text. */
  string(name: string): string | null {
    return this.texts.has(name) ? this.texts.get(name) : null;
  }

  /** -1 when it is no whole number up to `most`. */
  number(name: string, most: i64): i64 {
    if (!this.others.has(name)) return -1;
    const digits = this.others.get(name);
    let number: i64 = 0;
    for (let i = 0; i < digits.length; i++) {
      const digit = digits.charCodeAt(i) - 0x30;
      if (digit < 0 || digit > 9) return -1;
      number = number * 10 + digit;
      if (number > most) return -1;
    }
    return number;
  }

  private peek(): i32 {
    return this.at < this.source.length ? this.source.charCodeAt(this.at) : 0;
  }

  private space(): void {
    while (this.peek() == 0x20 || this.peek() == 0x0a || this.peek() == 0x0d || this.peek() == 0x09) this.at++;
  }

  /** The text at its opening quote, without escapes. */
  private text(): string {
    let text = "";
    this.at++;
    while (this.at < this.source.length && this.peek() != 0x22) {
      if (this.peek() != 0x5c) {
        text += this.source.charAt(this.at++);
        continue;
      }
      const escape = this.source.charAt(this.at + 1);
      this.at += 2;
      if (escape == "u") {
        text += String.fromCharCode(<i32>parseInt(this.source.substr(this.at, 4), 16));
        this.at += 4;
      } else if (escape == "n") text += "\n";
      else if (escape == "t") text += "\t";
      else if (escape == "r") text += "\r";
      else if (escape == "b") text += "\b";
      else if (escape == "f") text += "\f";
      else text += escape;
    }
    this.at++;
    return text;
  }

  /** Steps over a value that is no text. */
  private skip(): void {
    let depth = 0;
    while (this.at < this.source.length) {
      const next = this.peek();
      if (next == 0x22) {
        this.text();
        continue;
      }
      if (depth == 0 && (next == 0x2c || next == 0x7d)) return;
      if (next == 0x7b || next == 0x5b) depth++;
      if (next == 0x7d || next == 0x5d) depth--;
      this.at++;
    }
  }
}
