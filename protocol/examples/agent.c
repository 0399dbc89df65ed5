/* A guest agent for ballonet's wire protocol 1 in C11 and libc alone, written from SPEC.md. Numbers in comments are its
 * sections. It reports, asks when tasks stall (PSI), consents to INFLATE and DEFLATE and keeps a floor.
 *
 *     agent PORT [FLOOR_MIB [PROC_ROOT]]     PORT: a virtio port's device, or - for standard input and output
 *
 * One thread, no allocation after the start, every buffer bounded. Exit code 1: the port is gone; start it again. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { WIRE = 4096, BODY = 4064, HEADER = 16, MAX_TEXT = 128, MAX_BIN = 64, MAX_ITEMS = 64, MAX_DEPTH = 4, ECHOES = 8 };
enum { HELLO_REQ = 1, HELLO, HELLO_ACK, PING, PONG, BYE, ERROR, REPORT = 0x10, DEMAND, INFLATE = 0x20, DEFLATE,
       BALLOON_ACK, BALLOON_STATUS, SET_POLICY, POLICY_ACK, EVENT = 0x30 };
enum { REQ = 1, RSP = 2, CRITICAL = 0xff00 };
enum { BAD_MESSAGE = 2, UNSUPPORTED_VERSION = 4, UNSUPPORTED_TYPE, UNSUPPORTED_CRITICAL, OUT_OF_RANGE,
       NOT_PERMITTED = 11 };
enum { ACCEPTED, DUPLICATE, STALE, CLAMPED, REFUSED };                        /* AckStatus */
enum { NONE, FLOOR, PRESSURE, SETTLING, ABOVE_RAM = 6 };                      /* AckWhy */
enum { WORKING, REACHED, STALLED, EXPIRED = 4 };                              /* MoveStatus */
enum { IDLE, HELLO_RECEIVED, ACTIVE, CLOSED };                                /* 5.6 */
#define MAX_INT ((UINT64_C(1) << 53) - 1)
#define UNKNOWN UINT64_MAX
#define PAGE_BYTES 4096u
#define SETTLING_MS 30000u
#define REACHED_WITHIN (1u << 20)

/* ---- 3: frames ---------------------------------------------------------------------------------------------- */

static uint32_t crc32(const uint8_t *data, size_t size) {
    uint32_t c = ~0u;
    for (size_t i = 0; i < size; i++) {
        c ^= data[i];
        for (int k = 0; k < 8; k++) c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
    }
    return ~c;
}

static size_t cobs_encode(const uint8_t *data, size_t size, uint8_t *out) {
    size_t length_at = 0, to = 1;
    uint8_t length = 1;
    for (size_t i = 0; i < size; i++) {
        if (data[i]) { out[to++] = data[i]; length++; }
        if (!data[i] || (length == 255 && i + 1 < size)) {
            out[length_at] = length;
            length_at = to++;
            length = 1;
        }
    }
    out[length_at] = length;
    return to;
}

/* The size of what was encoded, or -1 for what is not COBS. */
static int cobs_decode(const uint8_t *in, size_t size, uint8_t *out) {
    size_t from = 0, to = 0;
    while (from < size) {
        uint8_t length = in[from++];
        if (!length || from + length - 1 > size) return -1;
        for (uint8_t i = 1; i < length; i++) out[to++] = in[from++];
        if (length < 255 && from < size) out[to++] = 0;
    }
    return (int)to;
}

static uint64_t get(const uint8_t *from, int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) value = value << 8 | from[i];
    return value;
}

static void put(uint8_t *to, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) to[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
}

/* ---- 4: values, read ---------------------------------------------------------------------------------------- */

enum kind { INT = 1, BOOL, TEXT, ARRAY, MAP, RANGE, NAMES };                  /* TEXT is str or bin: either is taken */
struct value { enum kind kind; uint64_t number; const uint8_t *bytes; uint32_t size; const uint8_t *end; };
struct reader { const uint8_t *at, *end; };

/* One value, checked to its bottom. False: the wire has no such value. */
static bool read_value(struct reader *r, struct value *v, int depth);

static bool printable(const uint8_t *bytes, uint32_t size) {
    for (uint32_t i = 0; i < size; i++) if (bytes[i] < 0x20 || bytes[i] > 0x7e) return false;
    return true;
}

static bool read_key(struct reader *r, struct value *key) {
    if (!read_value(r, key, MAX_DEPTH + 1) || key->kind != TEXT || key->size < 1 || key->size > 16) return false;
    for (uint32_t i = 0; i < key->size; i++) {
        uint8_t c = key->bytes[i];
        if (!((c >= 'a' && c <= 'z') || (i && ((c >= '0' && c <= '9') || c == '_')))) return false;
    }
    return true;
}

static bool read_items(struct reader *r, struct value *v, int depth) {
    struct value keys[MAX_ITEMS], item;
    if (depth > MAX_DEPTH || v->size > MAX_ITEMS) return false;
    for (uint32_t i = 0; i < v->size; i++) {
        if (v->kind == MAP) {
            if (!read_key(r, &keys[i])) return false;
            for (uint32_t k = 0; k < i; k++)
                if (keys[k].size == keys[i].size && !memcmp(keys[k].bytes, keys[i].bytes, keys[i].size)) return false;
        }
        if (!read_value(r, &item, depth + 1)) return false;
    }
    return true;
}

static bool read_value(struct reader *r, struct value *v, int depth) {
    if (r->at >= r->end) return false;
    uint8_t b = *r->at++;
    int width = 0;                                                            /* of the number or length behind b */
    if (b <= 0x7f) { v->kind = INT; v->number = b; }
    else if ((b & 0xf0) == 0x80) { v->kind = MAP; v->number = b & 0x0f; }
    else if ((b & 0xf0) == 0x90) { v->kind = ARRAY; v->number = b & 0x0f; }
    else if ((b & 0xe0) == 0xa0) { v->kind = TEXT; v->number = b & 0x1f; }
    else if (b == 0xc2 || b == 0xc3) { v->kind = BOOL; v->number = b & 1; }
    else if (b >= 0xc4 && b <= 0xc6) { v->kind = TEXT; width = 1 << (b - 0xc4); }
    else if (b >= 0xcc && b <= 0xcf) { v->kind = INT; width = 1 << (b - 0xcc); }
    else if (b >= 0xd0 && b <= 0xd3) { v->kind = INT; width = 1 << (b - 0xd0); }
    else if (b >= 0xd9 && b <= 0xdb) { v->kind = TEXT; width = 1 << (b - 0xd9); }
    else if (b == 0xdc || b == 0xdd) { v->kind = ARRAY; width = b == 0xdc ? 2 : 4; }
    else if (b == 0xde || b == 0xdf) { v->kind = MAP; width = b == 0xde ? 2 : 4; }
    else return false;                                                        /* nil, float, extension, negative */
    if (width) {
        if (r->end - r->at < width) return false;
        v->number = get(r->at, width);
        if (b >= 0xd0 && b <= 0xd3 && v->number >> (8 * width - 1)) return false;
        r->at += width;
    }
    if (v->kind == INT) return v->number <= MAX_INT;
    if (v->kind == BOOL) return true;
    v->size = v->number > 65535 ? 65535 : (uint32_t)v->number;
    v->bytes = r->at;
    if (v->kind == TEXT) {
        if (v->size > MAX_TEXT || (uint64_t)(r->end - r->at) < v->size) return false;
        r->at += v->size;
        return v->size <= MAX_BIN || printable(v->bytes, v->size);
    }
    bool held = read_items(r, v, depth);
    v->end = r->at;
    return held;
}

/* ---- 6: the messages that an agent takes ---------------------------------------------------------------------- */

struct field { const char *key; enum kind kind; uint64_t low, high; bool must; const struct field *map; };
#define NUMBER(key, low, high, must) {key, INT, low, high, must, 0}
#define ANY(key, must) NUMBER(key, 0, MAX_INT, must)

static const struct field LIMITS[] = {NUMBER("frame", 1024, MAX_INT, 0), NUMBER("inflight", 1, MAX_INT, 0), ANY("hb_ms", 0),
    ANY("dead_ms", 0), ANY("rep_ms", 0), {0}};
static const struct field HELLO_FIELDS[] = {{"maj", RANGE, 0, 0, 1, 0}, ANY("min", 1), {"nonce", TEXT, 16, 16, 1, 0},
    {"caps", NAMES, 0, 0, 1, 0}, {"vm", TEXT, 16, 16, 0, 0}, ANY("ram", 0), {"lim", MAP, 0, 0, 0, LIMITS}, {0}};
static const struct field PING_FIELDS[] = {ANY("t", 1), {0}}, PONG_FIELDS[] = {ANY("re", 1), ANY("t", 1), ANY("bt", 0), {0}};
static const struct field BYE_FIELDS[] = {ANY("why", 1), {0}};
static const struct field ERROR_FIELDS[] = {ANY("re", 0), ANY("code", 1), {"msg", TEXT, 0, MAX_TEXT, 0, 0},
    {"fatal", BOOL, 0, 0, 1, 0}, {0}};
static const struct field MOVE_FIELDS[] = {NUMBER("gen", 1, MAX_INT, 1), ANY("target", 1), NUMBER("ttl_ms", 5000, 3600000, 1),
    ANY("floor", 0), ANY("rate", 0), {0}};
static const struct field POLICY_FIELDS[] = {NUMBER("gen", 1, MAX_INT, 1), NUMBER("rep_ms", 250, 60000, 0),
    NUMBER("psi_some", 1, 10000, 0), NUMBER("psi_full", 1, 10000, 0), ANY("floor", 0), ANY("safe", 0), {0}};
static const struct field *const FIELDS[256] = {[HELLO] = HELLO_FIELDS, [PING] = PING_FIELDS, [PONG] = PONG_FIELDS,
    [BYE] = BYE_FIELDS, [ERROR] = ERROR_FIELDS, [INFLATE] = MOVE_FIELDS, [DEFLATE] = MOVE_FIELDS, [SET_POLICY] = POLICY_FIELDS};

static bool find(const struct value *map, const char *key, struct value *found) {
    struct reader r = {map->bytes, map->end};
    struct value name;
    for (uint32_t i = 0; i < map->size; i++) {
        read_value(&r, &name, 1);
        read_value(&r, found, 1);
        if (name.size == strlen(key) && !memcmp(name.bytes, key, name.size)) return true;
    }
    return false;
}

static uint64_t number(const struct value *map, const char *key, uint64_t absent) {
    struct value v;
    return find(map, key, &v) ? v.number : absent;
}

/* 0, or the ErrorCode that the message deserves (4.3). */
static int check_fields(const struct value *map, const struct field *fields) {
    for (const struct field *f = fields; f->key; f++) {
        struct value v, item;
        if (!find(map, f->key, &v)) {
            if (f->must) return BAD_MESSAGE;
            continue;
        }
        enum kind kind = f->kind > MAP ? ARRAY : f->kind;
        if (v.kind != kind) return BAD_MESSAGE;
        if (kind == INT && (v.number < f->low || v.number > f->high)) return OUT_OF_RANGE;
        if (kind == TEXT && (v.size < f->low || v.size > f->high)) return BAD_MESSAGE;
        if (kind == TEXT && f->high > 16 && !printable(v.bytes, v.size)) return BAD_MESSAGE;
        int code = kind == MAP ? check_fields(&v, f->map) : 0;
        if (code) return code;
        if (kind != ARRAY) continue;
        struct reader r = {v.bytes, v.end};
        uint64_t before = 0;
        if (f->kind == RANGE && v.size != 2) return BAD_MESSAGE;
        for (uint32_t i = 0; i < v.size; i++) {
            read_value(&r, &item, 1);
            if (f->kind == RANGE && (item.kind != INT || item.number < before)) return BAD_MESSAGE;
            if (f->kind == NAMES && (item.kind != TEXT || !item.size || item.size > 64 || !printable(item.bytes, item.size)))
                return BAD_MESSAGE;
            before = item.number;
        }
    }
    return 0;
}

/* ---- 4: values, written --------------------------------------------------------------------------------------- */

struct writer { uint8_t bytes[BODY]; size_t size; };

static void put_head(struct writer *w, uint8_t code, uint64_t value, int width) {
    w->bytes[w->size++] = code;
    put(w->bytes + w->size, value, width);
    w->size += (size_t)width;
}

static void put_int(struct writer *w, uint64_t n) {
    if (n < 0x80) put_head(w, (uint8_t)n, 0, 0);
    else if (n <= 0xff) put_head(w, 0xcc, n, 1);
    else if (n <= 0xffff) put_head(w, 0xcd, n, 2);
    else if (n <= 0xffffffff) put_head(w, 0xce, n, 4);
    else put_head(w, 0xcf, n, 8);
}

static void put_text(struct writer *w, const char *text) {                    /* 31 characters at the most */
    size_t size = strlen(text);
    put_head(w, (uint8_t)(0xa0 | size), 0, 0);
    memcpy(w->bytes + w->size, text, size);
    w->size += size;
}

static void put_bin(struct writer *w, const uint8_t *bytes, uint8_t size) {
    put_head(w, 0xc4, size, 1);
    memcpy(w->bytes + w->size, bytes, size);
    w->size += size;
}

static void put_pair(struct writer *w, const char *key, uint64_t n) { put_text(w, key); put_int(w, n); }
static void put_map(struct writer *w, const char *key, uint8_t size) {
    if (key) put_text(w, key);
    put_head(w, 0x80 | size, 0, 0);
}

/* ---- 5: the session ------------------------------------------------------------------------------------------- */

static struct {
    int in, out, psi;                                                         /* descriptors */
    const char *proc;
    uint64_t own_floor;
    bool host_there;
    int state;
    uint64_t session;
    uint32_t seq_out, seq_in, seq_outside, hello_seq;
    uint8_t nonce[16], boot[16];
    bool with_psi;
    uint64_t ram, policy_floor, move_floor, rep_ms, dead_ms;
    uint64_t heard_ms, reported_ms, hello_due_ms, hello_pause_ms, hello_asked_ms, error_ms;
    uint64_t pressed_ms, stopped_ms, demanded_ms;
    int hello_why, bad_in_a_row, unanswered;
    uint64_t crc, over, gap;
    struct { uint64_t gen, target, answered, expires_ms; int status, state; bool inflate, live, heard; } move;
    uint64_t policy_gen;
    uint32_t echoes[ECHOES];
    int echo;
    double tokens;
    uint64_t tokens_ms;
    uint8_t frame[WIRE + 1];                                                  /* what has arrived of the frame */
    size_t held;
    bool skipping;
} me;

static uint64_t clock_ms(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}
static uint64_t now_ms(void) { return clock_ms(CLOCK_MONOTONIC); }
static uint64_t boot_ms(void) { return clock_ms(CLOCK_BOOTTIME); }

static bool live(void) { return me.host_there && me.state == ACTIVE && me.unanswered < 32
                                && now_ms() < me.heard_ms + me.dead_ms; }

/* 3.3, 11: one frame, whole or not at all. */
static bool send_frame(int type, int flags, uint64_t session, const struct writer *payload) {
    static uint8_t body[BODY], wire[WIRE + 32];
    uint64_t now = now_ms();
    me.tokens += (double)(now - me.tokens_ms) / 50;                           /* 20 per second, 60 at once */
    if (me.tokens > 60) me.tokens = 60;
    me.tokens_ms = now;
    if (!me.host_there || me.tokens < 1) return false;
    uint32_t seq = session ? ++me.seq_out : ++me.seq_outside;
    body[0] = 1;
    body[1] = (uint8_t)type;
    put(body + 2, (uint64_t)flags, 2);
    put(body + 4, seq, 4);
    put(body + 8, session, 8);
    memcpy(body + HEADER, payload->bytes, payload->size);
    size_t size = HEADER + payload->size;
    uint32_t crc = crc32(body, size);
    put(body + size, crc, 4);
    if (type == PONG || type == BYE || type == ERROR) me.echoes[me.echo++ % ECHOES] = crc;
    wire[0] = 0;
    size = 1 + cobs_encode(body, size + 4, wire + 1);
    wire[size++] = 0;
    me.tokens -= 1;
    me.unanswered++;
    for (size_t sent = 0; sent < size;) {
        ssize_t n = write(me.out, wire + sent, size - sent);
        if (n > 0) sent += (size_t)n;
        else if (n < 0 && errno != EAGAIN && errno != EINTR && errno != ENOMEM) exit(1);
        else if (!sent) return false;                                         /* nobody takes it: drop it whole */
        else { struct timespec pause = {0, 1000000}; nanosleep(&pause, 0); if (now_ms() > now + 5000) exit(1); }
    }
    return true;
}

/* A message of keys and numbers: say(type, flags, "key", (uint64_t)number, .., (char *)0). UNKNOWN is left out (4.4). */
static bool say(int type, int flags, ...) {
    struct writer w = {.size = 0};
    const char *key;
    va_list args;
    va_start(args, flags);
    put_map(&w, 0, 0);
    while ((key = va_arg(args, const char *))) {
        uint64_t n = va_arg(args, uint64_t);
        if (n != UNKNOWN) { put_pair(&w, key, n); w.bytes[0]++; }
    }
    va_end(args);
    return send_frame(type, flags, me.session, &w);
}
#define END (char *)0
#define U(n) (uint64_t)(n)

static void send_hello_req(int why) {
    uint64_t now = now_ms();
    if (now < me.hello_asked_ms + 1000 && me.hello_asked_ms) { me.hello_why = why; me.hello_due_ms = me.hello_asked_ms + 1000; return; }
    struct writer w = {.size = 0};
    put_map(&w, 0, 2); put_pair(&w, "why", U(why)); put_text(&w, "impl"); put_text(&w, "agent.c");
    send_frame(HELLO_REQ, 0, 0, &w);
    me.hello_why = why;
    me.hello_asked_ms = now;
    me.hello_due_ms = now + me.hello_pause_ms;
    me.hello_pause_ms = me.hello_pause_ms * 3 / 2 > 15000 ? 15000 : me.hello_pause_ms * 3 / 2;
}

static void ask_for_session(int why) { me.hello_pause_ms = 1000; send_hello_req(why); }

static void end_consent(void) { me.move.live = false; }

static void close_session(int why) {
    if (why >= 0) say(BYE, 0, "why", U(why), END);
    end_consent();
    me.state = CLOSED;
    me.session = 0;
    me.hello_why = 3;
    me.hello_pause_ms = 1000;
    me.hello_due_ms = now_ms() + 1000;
}

/* 10: `re` 0 names no frame. */
static void send_error(int code, uint32_t re, bool fatal) {
    if (code != NOT_PERMITTED) me.bad_in_a_row++;
    uint64_t now = now_ms();
    if (fatal || !me.error_ms || now >= me.error_ms + 1000) {
        struct writer w = {.size = 0};
        put_map(&w, 0, re ? 3 : 2);
        if (re) put_pair(&w, "re", re);
        put_pair(&w, "code", U(code)); put_text(&w, "fatal"); put_head(&w, fatal ? 0xc3 : 0xc2, 0, 0);
        me.error_ms = now;
        send_frame(ERROR, re ? RSP : 0, re ? me.session : 0, &w);
    }
    if (fatal || (me.bad_in_a_row >= 16 && me.session)) { me.bad_in_a_row = 0; close_session(5); }
}

/* ---- 7: what the guest's kernel says; UNKNOWN where it says nothing ---------------------------------------------- */

struct counter { const char *key, *name; uint64_t value; };
enum { TOTAL, FREE, AVAIL, COMMITTED, ANON, SHMEM, SLABU, SWAP_T, SWAP_F, BALLOON };
static struct counter mem[] = {{"total", "MemTotal", 0}, {"free", "MemFree", 0}, {"avail", "MemAvailable", 0},
    {"committed", "Committed_AS", 0}, {"anon", "AnonPages", 0}, {"shmem", "Shmem", 0}, {"slabu", "SUnreclaim", 0},
    {"swap_t", "SwapTotal", 0}, {"swap_f", "SwapFree", 0}, {"balloon", 0, 0}, {0}};
static struct counter vm[] = {{"pgfault", "pgfault", 0}, {"majflt", "pgmajfault", 0}, {"pswpin", "pswpin", 0},
    {"pswpout", "pswpout", 0}, {"dscan", "pgscan_direct", 0}, {"oom", "oom_kill", 0}, {0}};
static struct counter psi[] = {{"some_us", 0, UNKNOWN}, {"full_us", 0, UNKNOWN}, {0}};

static bool read_text(const char *name, char *text, size_t size) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", me.proc, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = 0, held = 0;
    while (fd >= 0 && (n = read(fd, text + held, size - 1 - (size_t)held)) > 0) held += n;
    text[held] = 0;
    if (fd >= 0) close(fd);
    return held > 0;
}

static uint64_t line(const char *text, const char *name) {
    size_t size = strlen(name);
    for (const char *at = text; at && *at; at = strchr(at, '\n'), at = at ? at + 1 : 0)
        if (!strncmp(at, name, size) && (at[size] == ' ' || at[size] == ':')) return strtoull(at + size + 1, 0, 10);
    return UNKNOWN;
}

static void take_sample(void) {
    static char text[65536];
    read_text("meminfo", text, sizeof text);
    for (struct counter *c = mem; c->name; c++) c->value = line(text, c->name) == UNKNOWN ? UNKNOWN : line(text, c->name) * 1024;
    read_text("vmstat", text, sizeof text);
    for (struct counter *c = vm; c->key; c++) c->value = line(text, c->name);
    uint64_t in = line(text, "balloon_inflate"), out = line(text, "balloon_deflate");
    mem[BALLOON].value = in == UNKNOWN || out == UNKNOWN ? UNKNOWN : (in > out ? in - out : 0) * PAGE_BYTES;
    const char *at = read_text("pressure/memory", text, sizeof text) ? text : 0;
    for (struct counter *c = psi; c->key; c++) {                              /* the some line, then the full line */
        at = at ? strstr(at, "total=") : 0;
        c->value = at ? strtoull(at += 6, 0, 10) : UNKNOWN;
    }
}

/* The guest's number, 0 where it is unknown: for what is added, never for what is sent. */
static uint64_t has(int what) { return mem[what].value == UNKNOWN ? 0 : mem[what].value; }
static uint64_t ram(void) { return me.ram > has(TOTAL) ? me.ram : has(TOTAL); }
static uint64_t present(void) { return ram() - (has(BALLOON) < ram() ? has(BALLOON) : ram()); }

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

static uint64_t floor_bytes(void) {                                           /* 9.7 */
    uint64_t least = larger(larger(me.own_floor, me.policy_floor), me.move_floor);
    return least < ram() ? least : ram();
}

static uint64_t unmovable(void) {
    uint64_t pages = has(ANON) + has(SHMEM), swap = has(SWAP_F);
    return has(SLABU) + (pages > swap ? pages - swap : 0) + ram() - has(TOTAL);
}

static uint64_t want(uint64_t step) {
    uint64_t comfort = (16u << 20) + present() / 20, wanted = present() + comfort;
    wanted = wanted > has(AVAIL) ? wanted - has(AVAIL) : 0;
    wanted = larger(larger(wanted, step ? present() + step : 0), floor_bytes());
    return wanted < ram() ? wanted : ram();
}

static bool pressed(void) { return me.pressed_ms && now_ms() < me.pressed_ms + 2000; }

/* ---- 6, 9: what the agent says ---------------------------------------------------------------------------------- */

static void put_counters(struct writer *w, const char *key, const struct counter *counters) {
    size_t head = w->size + 1 + strlen(key);
    put_map(w, key, 0);
    for (const struct counter *c = counters; c->key; c++)
        if (c->value <= MAX_INT) { put_pair(w, c->key, c->value); w->bytes[head]++; }
}

static void send_report(void) {                                               /* 6.8 */
    struct writer w = {.size = 0};
    bool with_psi = me.with_psi && psi->value != UNKNOWN;
    put_map(&w, 0, (uint8_t)(5 + with_psi + (me.move.heard ? 2 : 0)));
    put_pair(&w, "bt", boot_ms());
    put_counters(&w, "mem", mem);
    if (with_psi) put_counters(&w, "psi", psi);
    put_counters(&w, "vm", vm);
    put_pair(&w, "want", want(0));
    put_pair(&w, "floor", floor_bytes());
    if (me.move.heard) { put_pair(&w, "gen", me.move.gen); put_pair(&w, "st", (uint64_t)me.move.state); }
    if (send_frame(REPORT, 0, me.session, &w)) me.reported_ms = now_ms();
}

static void send_status(int state) {                                          /* 6.14 */
    me.move.state = state;
    say(BALLOON_STATUS, 0, "gen", me.move.gen, "st", U(state), "cur", present(), "bt", boot_ms(), END);
}

static void send_demand(void) {                                       /* 6.9, 9.5 */
    uint64_t now = now_ms();
    if (!live() || (me.demanded_ms && now < me.demanded_ms + 250)) return;
    take_sample();
    bool hurts = me.move.live && me.move.inflate && me.move.state == WORKING;
    bool named = hurts || (me.stopped_ms && now < me.stopped_ms + 1000);
    if (say(DEMAND, 0, "bt", boot_ms(), "want", want(64u << 20), "why", U(1), "sev", U(2), "gen", named ? me.move.gen : UNKNOWN, END))
        me.demanded_ms = now;
    end_consent();
    if (hurts) { me.stopped_ms = now; send_status(STALLED); }
}

/* A move that has arrived is told once; within 1 MiB it is there (virtio-balloon moves 256 pages at a time). */
static void follow_move(void) {
    uint64_t here = present(), there = me.move.answered;
    bool arrived = me.move.inflate ? here <= there + REACHED_WITHIN : here + REACHED_WITHIN >= there;
    if (me.move.live && me.move.state == WORKING && arrived) send_status(REACHED);
}

static void answer_move(bool inflate, uint32_t seq, const struct value *map) {     /* 9.3 */
    uint64_t gen = number(map, "gen", 0), target = number(map, "target", 0), eff = target;
    int status = ACCEPTED, why = NONE;
    take_sample();
    if (gen < me.move.gen) status = STALE;
    bool again = gen == me.move.gen;
    if (gen > me.move.gen) me.move_floor = 0, me.move.target = target, me.move.inflate = inflate;
    if (status != STALE && me.move.inflate && inflate) {
        me.move_floor = larger(me.move_floor, number(map, "floor", 0));
        uint64_t limit = larger(floor_bytes(), unmovable());
        bool young = boot_ms() < SETTLING_MS;
        if (young || pressed()) status = REFUSED, why = young ? SETTLING : PRESSURE;
        else if (me.move.target < limit) status = limit < present() ? CLAMPED : REFUSED, why = FLOOR;
        eff = status == REFUSED ? present() : status == CLAMPED ? limit : me.move.target;
    } else if (status != STALE && target > ram()) status = CLAMPED, why = ABOVE_RAM, eff = ram();
    if (again && (!me.move.live || status == REFUSED)) eff = present();       /* what has ended does not come back */
    if (status != STALE) {
        me.move.live = again ? me.move.live && status != REFUSED : status != REFUSED;
        if (!again) me.move.state = me.move.live ? WORKING : 3;
        if (!again && me.move.live) me.stopped_ms = inflate ? 0 : me.stopped_ms;
        if (me.move.live) me.move.expires_ms = boot_ms() + number(map, "ttl_ms", 0);
        me.move.heard = true, me.move.gen = gen, me.move.answered = eff;
    }
    say(BALLOON_ACK, RSP, "re", U(seq), "gen", me.move.gen, "st", U(again ? DUPLICATE : status),
        "eff", status == STALE ? UNKNOWN : eff, "why", U(why), END);
    if (again || status == STALE || status == REFUSED) return;
    follow_move();
    send_report();                                                            /* 9.2 */
}

static void arm_psi(uint64_t some_permyriad) {                                /* a share of a window of 500 ms */
    char text[64];
    if (me.psi >= 0) close(me.psi);
    snprintf(text, sizeof text, "%s/pressure/memory", me.proc);
    me.psi = open(text, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    snprintf(text, sizeof text, "some %u 500000", (unsigned)(some_permyriad * 50));
    if (me.psi >= 0 && write(me.psi, text, strlen(text) + 1) < 0) { close(me.psi); me.psi = -1; }
}

/* ---- 5: what the agent hears ------------------------------------------------------------------------------------ */

static void take_policy(uint32_t seq, const struct value *map) {              /* 6.15 */
    uint64_t gen = number(map, "gen", 0);
    int status = gen > me.policy_gen ? ACCEPTED : gen == me.policy_gen ? DUPLICATE : STALE;
    if (status == ACCEPTED) {
        me.policy_gen = gen;
        me.rep_ms = number(map, "rep_ms", me.rep_ms);
        me.policy_floor = number(map, "floor", me.policy_floor);
        if (me.ram && me.policy_floor > me.ram) status = CLAMPED;
        if (number(map, "psi_some", 0)) arm_psi(number(map, "psi_some", 0));
    }
    say(POLICY_ACK, RSP, "re", U(seq), "gen", me.policy_gen, "st", U(status), END);
}

static void take_hello(uint64_t session, uint32_t seq, const struct value *map) { /* 5.1 */
    struct value v, item;
    if (session != me.session) me.seq_out = me.seq_in = 0;
    me.session = session;
    me.seq_in = me.seq_in > seq ? me.seq_in : seq;
    uint64_t gen = me.move.gen, state = me.move.heard ? (uint64_t)me.move.state : REACHED;
    memset(&me.move, 0, sizeof me.move);
    me.policy_gen = me.policy_floor = me.move_floor = me.stopped_ms = 0;
    me.state = HELLO_RECEIVED;
    find(map, "maj", &v);
    struct reader r = {v.bytes, v.end};
    uint64_t majors[2];
    for (int i = 0; i < 2; i++) { read_value(&r, &item, 1); majors[i] = item.number; }
    if (majors[0] > 1 || majors[1] < 1) { send_error(UNSUPPORTED_VERSION, seq, true); return; }
    take_sample();
    me.ram = number(map, "ram", 0);
    bool limits = find(map, "lim", &v);
    me.rep_ms = limits ? number(&v, "rep_ms", 1000) : 1000;
    me.rep_ms = me.rep_ms < 250 ? 250 : me.rep_ms > 60000 ? 60000 : me.rep_ms;
    me.dead_ms = limits ? number(&v, "dead_ms", 10000) : 10000;
    me.with_psi = false;
    find(map, "caps", &v);
    r = (struct reader){v.bytes, v.end};
    for (uint32_t i = 0; i < v.size; i++) {
        read_value(&r, &item, 1);
        if (psi->value != UNKNOWN && item.size == 3 && !memcmp(item.bytes, "psi", 3)) me.with_psi = true;
    }
    struct writer w = {.size = 0};
    put_map(&w, 0, 15);
    put_pair(&w, "re", seq);
    find(map, "nonce", &v);
    put_text(&w, "nonce"); put_bin(&w, v.bytes, 16);
    put_pair(&w, "maj", 1); put_pair(&w, "min", 0);
    put_text(&w, "caps"); put_head(&w, 0x90 | me.with_psi, 0, 0);
    if (me.with_psi) put_text(&w, "psi");
    put_text(&w, "impl"); put_text(&w, "agent.c");
    put_text(&w, "implv"); put_text(&w, "1");
    put_text(&w, "boot"); put_bin(&w, me.boot, 16);
    put_pair(&w, "bt", boot_ms()); put_pair(&w, "page", PAGE_BYTES); put_pair(&w, "total", has(TOTAL));
    put_pair(&w, "floor", floor_bytes());
    put_map(&w, "lim", 1); put_pair(&w, "frame", WIRE);
    put_pair(&w, "gen", gen); put_pair(&w, "st", state);
    me.state = ACTIVE;
    me.hello_due_ms = UINT64_MAX;
    send_frame(HELLO_ACK, RSP, session, &w);
    send_report();
}

/* 5.6: one whole frame; the questions in their order. */
static void take_frame(const uint8_t *body, size_t size) {
    int type = body[1], flags = (int)get(body + 2, 2), code = 0;
    uint32_t seq = (uint32_t)get(body + 4, 4), crc = (uint32_t)get(body + size - 4, 4);
    uint64_t session = get(body + 8, 8);
    bool hello = type == HELLO && session, outside = !session && type == ERROR;
    if (body[0] != 1) { if (type != ERROR) send_error(UNSUPPORTED_VERSION, 0, false); return; }
    if (!hello && !outside && (!session || session != me.session)) {          /* 5.5 */
        if (me.state != CLOSED && (session || type != HELLO_REQ)) ask_for_session(1);
        return;
    }
    bool ours = type == HELLO_REQ || type == HELLO_ACK || type == REPORT || type == DEMAND || type == BALLOON_ACK
                || type == BALLOON_STATUS || type == POLICY_ACK || type == EVENT;
    if (ours) { send_error(NOT_PERMITTED, seq, false); return; }
    for (int i = 0; i < ECHOES; i++) if (type >= PING && type <= ERROR && me.echoes[i] == crc) return;
    if (!hello && !outside) {                                                 /* 5.3 */
        if (seq <= me.seq_in) return;
        me.gap += seq - me.seq_in - 1;
        me.seq_in = seq;
    }
    if (flags & CRITICAL) code = UNSUPPORTED_CRITICAL;
    else if (!FIELDS[type]) { if (flags & REQ) send_error(UNSUPPORTED_TYPE, seq, false); return; }
    else if (!hello && type != ERROR && me.state != ACTIVE) return;
    struct reader r = {body + HEADER, body + size - 4};
    struct value map;
    if (!code && (!read_value(&r, &map, 1) || map.kind != MAP || r.at != r.end)) code = BAD_MESSAGE;
    if (!code) code = check_fields(&map, FIELDS[type]);
    if (code) { if (type != ERROR) send_error(code, hello ? 0 : seq, false); return; }
    if (type == ERROR && !session) return;
    if (!live()) end_consent();
    me.heard_ms = now_ms();
    me.unanswered = me.bad_in_a_row = 0;
    me.hello_due_ms = UINT64_MAX;
    if (type == HELLO) take_hello(session, seq, &map);
    if (type == PING) say(PONG, RSP, "re", U(seq), "t", number(&map, "t", 0), "bt", boot_ms(), END);
    if (type == BYE) close_session(-1);
    if (type == INFLATE || type == DEFLATE) answer_move(type == INFLATE, seq, &map);
    if (type == SET_POLICY) take_policy(seq, &map);
}

static void take_bytes(const uint8_t *data, size_t size) {                    /* 3.4 */
    static uint8_t body[WIRE];
    for (size_t i = 0; i < size; i++) {
        if (data[i]) {
            if (me.held < WIRE - 1) me.frame[me.held++] = data[i];
            continue;
        }
        int decoded = me.held && me.held <= WIRE - 2 && !me.skipping ? cobs_decode(me.frame, me.held, body) : -1;
        if (decoded >= HEADER + 4 && decoded <= BODY && crc32(body, (size_t)decoded - 4) == get(body + decoded - 4, 4))
            take_frame(body, (size_t)decoded);
        else if (me.held && !me.skipping) me.held > WIRE - 2 || decoded > BODY ? me.over++ : me.crc++;
        me.held = 0;
        me.skipping = false;
    }
}

/* ---- the loop --------------------------------------------------------------------------------------------------- */

static void read_port(void) {
    uint8_t data[WIRE];
    for (;;) {
        ssize_t n = read(me.in, data, sizeof data);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            if (!me.host_there) { me.host_there = true; ask_for_session(me.session ? 3 : 0); }
            return;
        }
        if (n < 0 || (!n && me.in == 0)) exit(n < 0);                         /* unplugged; standard input has ended */
        if (!n) { me.host_there = false; me.held = 0; end_consent(); return; } /* 2.2: no host now, not the end */
        if (!me.host_there) { me.host_there = true; ask_for_session(me.session ? 3 : 0); }
        take_bytes(data, (size_t)n);
    }
}

static bool changed(const uint64_t *before) {
    for (int i = AVAIL; i <= BALLOON; i++)
        if (i <= COMMITTED || i == BALLOON)
            if (llabs((long long)(has(i) - before[i])) > (long long)(has(TOTAL) / 50)) return true;
    return false;
}

int main(int count, char **words) {
    static uint64_t before[BALLOON + 1], sampled_ms;
    char text[64] = "";
    if (count < 2) { fprintf(stderr, "usage: agent PORT|- [FLOOR_MIB [PROC_ROOT]]\n"); return 2; }
    me.proc = count > 3 ? words[3] : "/proc";
    me.own_floor = (count > 2 ? strtoull(words[2], 0, 10) : 128) << 20;
    me.psi = -1, me.dead_ms = 10000, me.tokens = 60, me.hello_due_ms = UINT64_MAX;
    if (read_text("sys/kernel/random/boot_id", text, sizeof text))
        for (int i = 0, at = 0; i < 16 && text[at] && text[at + 1]; at += 2) {
            if (text[at] == '-') at++;
            me.boot[i++] = (uint8_t)strtoul((char[]){text[at], text[at + 1], 0}, 0, 16);
        }
    bool pipes = !strcmp(words[1], "-");
    me.in = pipes ? 0 : open(words[1], O_RDWR | O_NONBLOCK | O_CLOEXEC);
    me.out = pipes ? 1 : me.in;
    if (me.in < 0) { perror(words[1]); return 1; }
    for (int i = 0; i < 2; i++) fcntl(i ? me.in : me.out, F_SETFL, fcntl(i ? me.in : me.out, F_GETFL) | O_NONBLOCK);
    arm_psi(500);
    int poll = epoll_create1(EPOLL_CLOEXEC), armed = -1;
    struct epoll_event want_port = {.events = EPOLLIN | EPOLLOUT | EPOLLET}, want_psi = {.events = EPOLLPRI}, event;
    epoll_ctl(poll, EPOLL_CTL_ADD, me.in, &want_port);
    for (read_port();; read_port()) {
        if (me.psi != armed) { armed = me.psi; want_psi.data.fd = 1; if (armed >= 0) epoll_ctl(poll, EPOLL_CTL_ADD, armed, &want_psi); }
        uint64_t now = now_ms(), step = me.move.live && me.move.state == WORKING ? 250 : me.rep_ms < 1000 ? me.rep_ms : 1000;
        uint64_t wait = live() ? step : me.host_there ? 1000 : 15000;
        if (epoll_wait(poll, &event, 1, (int)wait) > 0 && event.data.fd == 1) { me.pressed_ms = now_ms(); send_demand(); }
        now = now_ms();
        if (me.host_there && me.state == ACTIVE && !live() && me.hello_due_ms == UINT64_MAX) {
            end_consent();                                                    /* 5.8: nobody is there */
            me.hello_why = 3, me.hello_pause_ms = 15000, me.hello_due_ms = now;
        }
        if (me.host_there && now >= me.hello_due_ms) send_hello_req(me.hello_why);
        if (me.move.live && boot_ms() >= me.move.expires_ms) {                /* 9.9 */
            end_consent();
            if (me.move.state == WORKING) send_status(EXPIRED);
        }
        if (me.stopped_ms && now >= me.stopped_ms + 1000) { me.stopped_ms = 0; if (pressed()) send_demand(); }
        if (!live() || now < sampled_ms + step) continue;
        sampled_ms = now;
        take_sample();
        follow_move();
        if (now >= me.reported_ms + me.rep_ms || (now >= me.reported_ms + 250 && changed(before))) {
            for (int i = 0; i <= BALLOON; i++) before[i] = has(i);
            send_report();
        }
    }
}
