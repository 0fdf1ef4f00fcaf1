/* Reads members of one flat JSON object, as a policy's configuration is: texts and numbers. The broker has checked that it is
 * JSON. Include it behind waspmq.h. */
#ifndef WASPMQ_JSON_H
#define WASPMQ_JSON_H

typedef struct { const char *at, *end; } json_cursor;
typedef enum { JSON_MISSING, JSON_FOUND, JSON_OTHER } json_found;

static inline char json_peek(const json_cursor *c) { return c->at < c->end ? *c->at : 0; }
static inline void json_space(json_cursor *c) {
  while (json_peek(c) == ' ' || json_peek(c) == '\n' || json_peek(c) == '\t' || json_peek(c) == '\r') c->at++;
}
static inline uint32_t json_hex(json_cursor *c) {
  uint32_t code = 0;
  for (int digit = 0; digit < 4 && c->at < c->end; digit++, c->at++)
    code = code << 4 | (uint32_t)(*c->at <= '9' ? *c->at - '0' : (*c->at | 32) - 'a' + 10);
  return code;
}

/* The text at its opening quote, without escapes. It has no more room than it needs once it is read. */
static inline wq_string json_text(json_cursor *c) {
  char *text = wq_alloc((uint32_t)(c->end - c->at)), *to = text;
  c->at++;
  while (c->at < c->end && *c->at != '"') {
    char next = *c->at++;
    if (next != '\\') { *to++ = next; continue; }
    char escape = json_peek(c);
    c->at++;
    if (escape != 'u') {
      *to++ = escape == 'n' ? '\n' : escape == 't' ? '\t' : escape == 'r' ? '\r' : escape == 'b' ? '\b' : escape == 'f' ? '\f' : escape;
      continue;
    }
    uint32_t code = json_hex(c);
    if (code >= 0xd800 && code < 0xdc00 && c->end - c->at >= 6) {
      c->at += 2;
      code = 0x10000 + ((code - 0xd800) << 10) + (json_hex(c) - 0xdc00);
    }
    if (code < 0x80) *to++ = (char)code;
    else {
      if (code < 0x800) *to++ = (char)(0xc0 | code >> 6);
      else {
        if (code < 0x10000) *to++ = (char)(0xe0 | code >> 12);
        else { *to++ = (char)(0xf0 | code >> 18); *to++ = (char)(0x80 | (code >> 12 & 63)); }
        *to++ = (char)(0x80 | (code >> 6 & 63));
      }
      *to++ = (char)(0x80 | (code & 63));
    }
  }
  c->at++;
  wq_top = (uintptr_t)to;
  return (wq_string){ text, (uint32_t)(to - text) };
}

/* Steps over a text at its opening quote. */
static inline void json_skip_text(json_cursor *c) {
  for (c->at++; c->at < c->end && *c->at != '"'; c->at++)
    if (*c->at == '\\') c->at++;
  c->at++;
}

/* Steps over a value, whatever it is. */
static inline void json_skip(json_cursor *c) {
  for (int depth = 0; c->at < c->end;) {
    char next = *c->at;
    if (next == '"') { json_skip_text(c); if (depth == 0) return; continue; }
    if (next == '{' || next == '[') depth++;
    if (next == '}' || next == ']') { if (depth == 0) return; if (--depth == 0) { c->at++; return; } }
    if (next == ',' && depth == 0) return;
    c->at++;
  }
}

/* Moves to the value of a member. */
static inline bool json_find(wq_string object, wq_string name, json_cursor *c) {
  *c = (json_cursor){ object.ptr, object.ptr + object.len };
  json_space(c);
  for (c->at++; c->at < c->end; c->at++) { /* behind the brace or a comma */
    json_space(c);
    if (json_peek(c) != '"') return false;
    wq_string key = json_text(c);
    json_space(c);
    c->at++; /* the colon */
    json_space(c);
    if (wq_equal(key, name)) return true;
    json_skip(c);
    json_space(c);
  }
  return false;
}

static inline json_found json_string(wq_string object, wq_string name, wq_string *to) {
  json_cursor c;
  if (!json_find(object, name, &c)) return JSON_MISSING;
  if (json_peek(&c) != '"') return JSON_OTHER;
  *to = json_text(&c);
  return JSON_FOUND;
}

/* A whole number up to `most`. */
static inline json_found json_number(wq_string object, wq_string name, uint32_t most, uint32_t *to) {
  json_cursor c;
  if (!json_find(object, name, &c)) return JSON_MISSING;
  uint64_t number = 0;
  const char *start = c.at;
  for (; json_peek(&c) >= '0' && json_peek(&c) <= '9'; c.at++) {
    number = number * 10 + (uint64_t)(*c.at - '0');
    if (number > most) return JSON_OTHER;
  }
  char behind = json_peek(&c);
  if (c.at == start || behind == '.' || behind == 'e' || behind == 'E') return JSON_OTHER;
  *to = (uint32_t)number;
  return JSON_FOUND;
}

#endif
