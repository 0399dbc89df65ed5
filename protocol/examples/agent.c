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
enum { BAD_MESSAGE = 2, UNKNOWN_SESSION, UNSUPPORTED_VERSION, UNSUPPORTED_TYPE, UNSUPPORTED_CRITICAL, OUT_OF_RANGE,
       NOT_PERMITTED = 11 };
enum { ACCEPTED, DUPLICATE, STALE, CLAMPED, REFUSED };                        /* AckStatus */
enum { NONE, FLOOR, PRESSURE, SETTLING, POLICY = 5, ABOVE_RAM };              /* AckWhy */
enum { WORKING, REACHED, STALLED, GAVE_UP, EXPIRED };                         /* MoveStatus */
enum { IDLE, ACTIVE, CLOSED };                                                /* 5.6; a HELLO is answered at once */
#define MAX_INT ((UINT64_C(1) << 53) - 1)
#define UNKNOWN UINT64_MAX
#define MIB (UINT64_C(1) << 20)
#define U(n) (uint64_t)(n)

struct counter { const char *key, *name; uint64_t value; };                   /* key on the wire, name in /proc */
enum { TOTAL, FREE, AVAIL, COMMITTED, ANON, SHMEM, SLABU, SWAP_T, SWAP_F, BALLOON };
static struct counter mem[] = {{"total", "MemTotal", 0}, {"free", "MemFree", 0}, {"avail", "MemAvailable", 0},
    {"committed", "Committed_AS", 0}, {"anon", "AnonPages", 0}, {"shmem", "Shmem", 0}, {"slabu", "SUnreclaim", 0},
    {"swap_t", "SwapTotal", 0}, {"swap_f", "SwapFree", 0}, {"balloon", 0, 0}, {0}};
static struct counter vm[] = {{"pgfault", "pgfault", 0}, {"majflt", "pgmajfault", 0}, {"pswpin", "pswpin", 0},
    {"pswpout", "pswpout", 0}, {"dscan", "pgscan_direct", 0}, {"oom", "oom_kill", 0}, {0}};
static struct counter psi[] = {{"some_us", 0, UNKNOWN}, {"full_us", 0, UNKNOWN}, {0}};
static struct counter drops[] = {{"crc", 0, 0}, {"over", 0, 0}, {"gap", 0, 0}, {0}};

static struct {
    const char *proc;
    int in, out, trigger, state, hello_why, bad_in_a_row, unanswered, echo;
    bool host_there, with_psi;
    uint64_t session, own_floor, policy_floor, ram, rep_ms, dead_ms, policy_gen, budget_ms, budget_at_ms;
    uint64_t heard_ms, reported_ms, sampled_ms, hello_due_ms, hello_pause_ms, asked_ms, error_ms, pressed_ms, stopped_ms,
             demanded_ms, begun_ms;                                           /* CLOCK_MONOTONIC, 0: not yet */
    uint32_t seq_out, seq_in, seq_outside, echoes[ECHOES];
    uint8_t boot[16], frame[WIRE];
    size_t held;                                                              /* of the frame that has begun */
    struct { uint64_t gen, target, floor, answered, expires_ms; int state; bool inflate, live, heard; } move;
} me = {.trigger = -1, .dead_ms = 10000, .rep_ms = 1000, .budget_ms = 3000, .hello_due_ms = UNKNOWN};

static uint64_t clock_ms(clockid_t id) {
    struct timespec t;
    return clock_gettime(id, &t), U(t.tv_sec) * 1000 + U(t.tv_nsec) / 1000000;
}
static uint64_t now_ms(void) { return clock_ms(CLOCK_MONOTONIC); }
static uint64_t boot_ms(void) { return clock_ms(CLOCK_BOOTTIME); }
static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }
static uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* ---- 3: frames ---------------------------------------------------------------------------------------------- */
static uint32_t crc32(const uint8_t *data, size_t size) {
    uint32_t c = ~0u;
    for (size_t bit = 0; bit < 8 * size; bit++) {
        if (bit % 8 == 0) c ^= data[bit / 8];
        c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
    }
    return ~c;
}
static size_t cobs_encode(const uint8_t *data, size_t size, uint8_t *out) {
    size_t head = 0, to = 1;
    for (size_t i = 0; i < size; i++) {
        if (data[i]) out[to++] = data[i];
        if (!data[i] || (to - head == 255 && i + 1 < size)) { out[head] = (uint8_t)(to - head); head = to++; }
    }
    out[head] = (uint8_t)(to - head);
    return to;
}
/* The size of what was encoded, or -1 for what is not COBS. */
static int cobs_decode(const uint8_t *in, size_t size, uint8_t *out) {
    size_t from = 0, to = 0;
    while (from < size) {
        uint8_t length = in[from++];
        if (from + length - 1 > size) return -1;
        memcpy(out + to, in + from, length - 1u);
        to += length - 1u, from += length - 1u;
        if (length < 255 && from < size) out[to++] = 0;
    }
    return (int)to;
}

static uint64_t get(const uint8_t *from, int bytes) {
    uint64_t value = 0;
    while (bytes--) value = value << 8 | *from++;
    return value;
}
static void put(uint8_t *to, uint64_t value, int bytes) {
    while (bytes--) *to++ = (uint8_t)(value >> 8 * bytes);
}

/* ---- 4: values, read ---------------------------------------------------------------------------------------- */
enum kind { INT = 1, BOOL, TEXT, ARRAY, MAP, RANGE, NAMES };                  /* TEXT is str or bin: either is taken */
struct value { enum kind kind; uint64_t number; const uint8_t *bytes, *end; uint32_t size; };
struct reader { const uint8_t *at, *end; };

static bool printable(const struct value *v) {
    for (uint32_t i = 0; i < v->size; i++) if (v->bytes[i] < 0x20 || v->bytes[i] > 0x7e) return false;
    return true;
}
static bool is_key(const struct value *v) {                                   /* 4.2 */
    const char *first = "abcdefghijklmnopqrstuvwxyz", *rest = "abcdefghijklmnopqrstuvwxyz0123456789_";
    bool good = v->kind == TEXT && v->size >= 1 && v->size <= 16;
    for (uint32_t i = 0; good && i < v->size; i++) good = v->bytes[i] && strchr(i ? rest : first, v->bytes[i]);
    return good;
}

/* One value, checked to its bottom (4.1). False: the wire has no such value. */
static bool read_value(struct reader *r, struct value *v, int depth) {
    struct value keys[MAX_ITEMS], item;
    if (r->at >= r->end) return false;
    uint8_t b = *r->at++;
    int width = 0;                                                            /* of the number or length behind b */
    if (b <= 0x7f) v->kind = INT, v->number = b;
    else if (b <= 0x8f) v->kind = MAP, v->number = b & 0x0f;
    else if (b <= 0x9f) v->kind = ARRAY, v->number = b & 0x0f;
    else if (b <= 0xbf) v->kind = TEXT, v->number = b & 0x1f;
    else if (b == 0xc2 || b == 0xc3) v->kind = BOOL, v->number = b & 1;
    else if (b >= 0xc4 && b <= 0xc6) v->kind = TEXT, width = 1 << (b - 0xc4);
    else if (b >= 0xcc && b <= 0xd3) v->kind = INT, width = 1 << (b & 3);
    else if (b >= 0xd9 && b <= 0xdb) v->kind = TEXT, width = 1 << (b - 0xd9);
    else if (b >= 0xdc && b <= 0xdf) v->kind = b < 0xde ? ARRAY : MAP, width = b & 1 ? 4 : 2;
    else return false;                                                        /* nil, float, extension, negative */
    if (r->end - r->at < width) return false;
    if (width) v->number = get(r->at, width);
    if (b >= 0xd0 && b <= 0xd3 && v->number >> (8 * width - 1)) return false;
    r->at += width;
    if (v->kind == INT) return v->number <= MAX_INT;
    if (v->kind == BOOL) return true;
    v->size = (uint32_t)smaller(v->number, 65535);
    v->bytes = r->at;
    if (v->kind == TEXT) {
        if (v->size > MAX_TEXT || r->end - r->at < (long)v->size) return false;
        r->at += v->size;
        return v->size <= MAX_BIN || printable(v);
    }
    if (depth > MAX_DEPTH || v->size > MAX_ITEMS) return false;
    for (uint32_t i = 0; i < v->size; i++) {
        if (v->kind == MAP && (!read_value(r, &keys[i], MAX_DEPTH + 1) || !is_key(&keys[i]))) return false;
        for (uint32_t k = 0; v->kind == MAP && k < i; k++)
            if (keys[k].size == keys[i].size && !memcmp(keys[k].bytes, keys[i].bytes, keys[i].size)) return false;
        if (!read_value(r, &item, depth + 1)) return false;
    }
    v->end = r->at;
    return true;
}
static bool find(const struct value *map, const char *key, struct value *found) {
    struct reader r = {map->bytes, map->end};
    struct value name;
    for (uint32_t i = 0; i < map->size; i++) {
        read_value(&r, &name, 1), read_value(&r, found, 1);
        if (name.size == strlen(key) && !memcmp(name.bytes, key, name.size)) return true;
    }
    return false;
}
static uint64_t number(const struct value *map, const char *key, uint64_t absent) {
    struct value v;
    return find(map, key, &v) ? v.number : absent;
}

/* ---- 6: the messages that an agent takes ---------------------------------------------------------------------- */
struct field { const char *key; enum kind kind; uint64_t low, high; bool must; const struct field *map; };
#define NUMBER(key, low, high, must) {key, INT, low, high, must, 0}
#define ANY(key, must) NUMBER(key, 0, MAX_INT, must)

static const struct field LIMITS[] = {NUMBER("frame", 1024, MAX_INT, 0), NUMBER("inflight", 1, MAX_INT, 0),
    ANY("hb_ms", 0), ANY("dead_ms", 0), ANY("rep_ms", 0), {0}};
static const struct field HELLO_FIELDS[] = {{"maj", RANGE, 0, 0, 1, 0}, ANY("min", 1), {"nonce", TEXT, 16, 16, 1, 0},
    {"caps", NAMES, 0, 0, 1, 0}, {"vm", TEXT, 16, 16, 0, 0}, ANY("ram", 0), {"lim", MAP, 0, 0, 0, LIMITS}, {0}};
static const struct field PING_FIELDS[] = {ANY("t", 1), {0}}, BYE_FIELDS[] = {ANY("why", 1), {0}};
static const struct field PONG_FIELDS[] = {ANY("re", 1), ANY("t", 1), ANY("bt", 0), {0}};
static const struct field ERROR_FIELDS[] = {ANY("re", 0), ANY("code", 1), {"msg", TEXT, 0, MAX_TEXT, 0, 0},
    {"fatal", BOOL, 0, 0, 1, 0}, {0}};
static const struct field MOVE_FIELDS[] = {NUMBER("gen", 1, MAX_INT, 1), ANY("target", 1),
    NUMBER("ttl_ms", 5000, 3600000, 1), ANY("floor", 0), ANY("rate", 0), {0}};
static const struct field POLICY_FIELDS[] = {NUMBER("gen", 1, MAX_INT, 1), NUMBER("rep_ms", 250, 60000, 0),
    NUMBER("psi_some", 1, 10000, 0), NUMBER("psi_full", 1, 10000, 0), ANY("floor", 0), ANY("safe", 0), {0}};
static const struct field *const FIELDS[256] = {[HELLO] = HELLO_FIELDS, [PING] = PING_FIELDS, [PONG] = PONG_FIELDS,
    [BYE] = BYE_FIELDS, [ERROR] = ERROR_FIELDS, [INFLATE] = MOVE_FIELDS, [DEFLATE] = MOVE_FIELDS,
    [SET_POLICY] = POLICY_FIELDS};

/* 0, or the ErrorCode that the message deserves (4.3). */
static int check_fields(const struct value *map, const struct field *f) {
    for (int code; f->key; f++) {
        struct value v, item;
        if (!find(map, f->key, &v) && f->must) return BAD_MESSAGE;
        if (!find(map, f->key, &v)) continue;
        if (v.kind != (f->kind > MAP ? ARRAY : f->kind) || (f->kind == RANGE && v.size != 2)) return BAD_MESSAGE;
        if (v.kind == INT && (v.number < f->low || v.number > f->high)) return OUT_OF_RANGE;
        if (v.kind == TEXT && (v.size < f->low || v.size > f->high || (!f->low && !printable(&v)))) return BAD_MESSAGE;
        if (v.kind == MAP && (code = check_fields(&v, f->map))) return code;
        struct reader r = {v.bytes, v.end};
        uint64_t before = 0;
        for (uint32_t i = 0; f->kind > MAP && i < v.size; i++, before = item.number) {
            read_value(&r, &item, 1);
            if (item.kind != (f->kind == RANGE ? INT : TEXT)) return BAD_MESSAGE;
            bool name = item.size && item.size <= 64 && printable(&item);
            if (item.kind == INT ? item.number < before : !name) return BAD_MESSAGE;
        }
    }
    return 0;
}

/* ---- 4: values, written --------------------------------------------------------------------------------------- */
struct writer { uint8_t bytes[BODY]; size_t size; };

static void put_head(struct writer *w, int code, uint64_t value, int width) {
    w->bytes[w->size++] = (uint8_t)code;
    put(w->bytes + w->size, value, width);
    w->size += (size_t)width;
}
static void put_bytes(struct writer *w, int code, const void *bytes, size_t size) {
    put_head(w, code, size, code == 0xc4);                                    /* 0xc4: bin; else a str of up to 31 */
    memcpy(w->bytes + w->size, bytes, size);
    w->size += size;
}
static void put_text(struct writer *w, const char *text) { put_bytes(w, 0xa0 | (int)strlen(text), text, strlen(text)); }
static void put_pair(struct writer *w, const char *key, uint64_t n) {
    put_text(w, key);
    if (n < 0x80) put_head(w, (int)n, 0, 0);
    else if (n <= 0xffff) put_head(w, n <= 0xff ? 0xcc : 0xcd, n, n <= 0xff ? 1 : 2);
    else put_head(w, n <= 0xffffffff ? 0xce : 0xcf, n, n <= 0xffffffff ? 4 : 8);
}
/* A map of what is known (4.4): absent is what the guest's kernel does not count. */
static void put_counters(struct writer *w, const char *key, const struct counter *c) {
    put_text(w, key);
    size_t head = w->size;
    for (put_head(w, 0x80, 0, 0); c->key; c++) if (c->value <= MAX_INT) { put_pair(w, c->key, c->value); w->bytes[head]++; }
}

/* ---- 5: the session, said --------------------------------------------------------------------------------------- */
static bool live(void) {                                                      /* 5.8 */
    return me.host_there && me.state == ACTIVE && me.unanswered < 32 && now_ms() < me.heard_ms + me.dead_ms;
}

/* 3.3: one frame, whole or not at all; 11: 20 a second, 60 at once. */
static bool send_frame(int type, int flags, uint64_t session, const struct writer *payload) {
    static uint8_t body[BODY], wire[WIRE + 32];
    uint64_t began = now_ms();                                                /* a frame costs 50 ms of 3 s */
    me.budget_ms = smaller(me.budget_ms + began - me.budget_at_ms, 3000), me.budget_at_ms = began;
    if (!me.host_there || me.budget_ms < 50) return false;
    me.budget_ms -= 50, me.unanswered++;
    body[0] = 1, body[1] = (uint8_t)type;
    put(body + 2, U(flags), 2);
    put(body + 4, session ? ++me.seq_out : ++me.seq_outside, 4);
    put(body + 8, session, 8);
    memcpy(body + HEADER, payload->bytes, payload->size);
    size_t size = HEADER + payload->size, sent = 0;
    uint32_t crc = crc32(body, size);
    put(body + size, crc, 4);
    if (type >= PING && type <= ERROR) me.echoes[me.echo++ % ECHOES] = crc;
    size = 1 + cobs_encode(body, size + 4, wire + 1);
    wire[size++] = 0;
    while (sent < size) {
        ssize_t n = write(me.out, wire + sent, size - sent);
        if (n > 0) { sent += (size_t)n; continue; }
        if ((n < 0 && errno != EAGAIN && errno != EINTR && errno != ENOMEM) || now_ms() > began + 5000) exit(1);
        if (!sent) return false;                                              /* nobody takes it */
        nanosleep(&(struct timespec){0, 1000000}, 0);
    }
    return true;
}

/* A message of keys and numbers: say(type, flags, "key", U(number), .., END). UNKNOWN is left out (4.4). */
#define END (char *)0
static bool say(int type, int flags, ...) {
    struct writer w = {.bytes = {0x80}, .size = 1};
    va_list args;
    va_start(args, flags);
    for (const char *key; (key = va_arg(args, const char *));) {
        uint64_t n = va_arg(args, uint64_t);
        if (n != UNKNOWN) put_pair(&w, key, n), w.bytes[0]++;
    }
    va_end(args);
    return send_frame(type, flags, me.session, &w);
}

static void send_hello_req(void) {                                            /* 5.2, at the pace of 11 */
    struct writer w = {.bytes = {0x82}, .size = 1};
    put_pair(&w, "why", U(me.hello_why));
    put_text(&w, "impl"), put_text(&w, "agent.c");
    send_frame(HELLO_REQ, 0, 0, &w);
    me.asked_ms = now_ms();
    me.hello_due_ms = me.asked_ms + me.hello_pause_ms;
    me.hello_pause_ms = smaller(me.hello_pause_ms * 3 / 2, 15000);
}
static void ask_for_session(int why) {                                        /* at once, or a second after the last */
    me.hello_why = why, me.hello_pause_ms = 1000;
    me.hello_due_ms = me.asked_ms ? larger(now_ms(), me.asked_ms + 1000) : now_ms();
    if (now_ms() >= me.hello_due_ms) send_hello_req();
}
static void close_session(int why) {                                          /* 5.7; why < 0: the peer has left */
    if (why >= 0) say(BYE, 0, "why", U(why), END);
    me.move.live = false, me.state = CLOSED, me.session = 0;
    me.hello_why = 3, me.hello_pause_ms = 1000, me.hello_due_ms = now_ms() + 1000;
}
static void send_error(int code, uint32_t re, bool fatal) {                   /* 10; `re` 0 names no frame */
    if (code != NOT_PERMITTED) me.bad_in_a_row++;
    if (fatal || !me.error_ms || now_ms() >= me.error_ms + 1000) {
        struct writer w = {.bytes = {re ? 0x83 : 0x82}, .size = 1};
        if (re) put_pair(&w, "re", re);
        put_pair(&w, "code", U(code)), put_text(&w, "fatal"), put_head(&w, fatal ? 0xc3 : 0xc2, 0, 0);
        me.error_ms = now_ms();
        send_frame(ERROR, re ? RSP : 0, re ? me.session : 0, &w);
    }
    if (me.session && (fatal || me.bad_in_a_row >= 16)) { me.bad_in_a_row = 0; close_session(5); }
}

/* ---- 7: what the guest's kernel says ---------------------------------------------------------------------------- */
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
static uint64_t line(const char *text, const char *name, uint64_t unit) {
    size_t size = strlen(name);
    for (const char *at = text; at && *at; at = strchr(at, '\n'), at = at ? at + 1 : 0)
        if (!strncmp(at, name, size) && (at[size] == ' ' || at[size] == ':')) return strtoull(at + size + 1, 0, 10) * unit;
    return UNKNOWN;
}

static void take_sample(void) {
    static char text[65536];
    read_text("meminfo", text, sizeof text);
    for (struct counter *c = mem; c->name; c++) c->value = line(text, c->name, 1024);
    read_text("vmstat", text, sizeof text);
    for (struct counter *c = vm; c->key; c++) c->value = line(text, c->name, 1);
    uint64_t in = line(text, "balloon_inflate", 1), out = line(text, "balloon_deflate", 1), page = U(sysconf(_SC_PAGESIZE));
    mem[BALLOON].value = in == UNKNOWN || out == UNKNOWN ? UNKNOWN : (in > out ? in - out : 0) * page;
    const char *at = read_text("pressure/memory", text, sizeof text) ? text : 0;
    for (struct counter *c = psi; c->key; c++) {                              /* the some line, then the full line */
        at = at ? strstr(at, "total=") : 0;
        c->value = at ? strtoull(at += 6, 0, 10) : UNKNOWN;
    }
}

/* The guest's number, 0 where it is unknown: for what is added here, never for what is sent. */
static uint64_t has(int what) { return mem[what].value == UNKNOWN ? 0 : mem[what].value; }
/* 4.6: sizes on the hypervisor's scale. */
static uint64_t ram(void) { return larger(me.ram, has(TOTAL)); }
static uint64_t present(void) { return ram() - smaller(has(BALLOON), ram()); }
static uint64_t floor_bytes(void) { return smaller(larger(larger(me.own_floor, me.policy_floor), me.move.floor), ram()); }
static bool pressed(void) { return me.pressed_ms && now_ms() < me.pressed_ms + 2000; }
static uint64_t unmovable(void) {
    uint64_t pages = has(ANON) + has(SHMEM), swap = has(SWAP_F);
    return has(SLABU) + (pages > swap ? pages - swap : 0) + ram() - has(TOTAL);
}
static uint64_t want(uint64_t step) {
    uint64_t spare = 16 * MIB + present() / 20, wanted = present() + spare;
    wanted -= smaller(wanted, has(AVAIL));
    return smaller(larger(larger(wanted, step ? present() + step : 0), floor_bytes()), ram());
}
static void arm_trigger(uint64_t permyriad) {                                 /* a share of a window of 500 ms */
    char text[256];
    if (me.trigger >= 0) close(me.trigger);
    snprintf(text, sizeof text, "%s/pressure/memory", me.proc);
    me.trigger = open(text, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    snprintf(text, sizeof text, "some %u 500000", (unsigned)(permyriad * 50));
    if (me.trigger >= 0 && write(me.trigger, text, strlen(text) + 1) < 0) { close(me.trigger); me.trigger = -1; }
}

/* ---- 6, 9: what the agent says ---------------------------------------------------------------------------------- */
static void send_report(void) {                                               /* 6.8 */
    bool with_psi = me.with_psi && psi->value != UNKNOWN;
    struct writer w = {.bytes = {(uint8_t)(0x86 + with_psi + (me.move.heard ? 2 : 0))}, .size = 1};
    put_pair(&w, "bt", boot_ms());
    put_counters(&w, "mem", mem);
    if (with_psi) put_counters(&w, "psi", psi);
    put_counters(&w, "vm", vm);
    put_pair(&w, "want", want(0)), put_pair(&w, "floor", floor_bytes());
    if (me.move.heard) put_pair(&w, "gen", me.move.gen), put_pair(&w, "st", U(me.move.state));
    put_counters(&w, "drop", drops);
    if (send_frame(REPORT, 0, me.session, &w)) me.reported_ms = now_ms();
}

static void send_status(int state) {                                          /* 6.14 */
    me.move.state = state;
    say(BALLOON_STATUS, 0, "gen", me.move.gen, "st", U(state), "cur", present(), "bt", boot_ms(), END);
}
static void send_demand(void) {                                               /* 6.9; 9.5 when a move hurts */
    uint64_t now = now_ms();
    if (!live() || (me.demanded_ms && now < me.demanded_ms + 250)) return;
    take_sample();
    bool hurts = me.move.live && me.move.inflate && me.move.state == WORKING;
    uint64_t gen = hurts || (me.stopped_ms && now < me.stopped_ms + 1000) ? me.move.gen : UNKNOWN;
    say(DEMAND, 0, "bt", boot_ms(), "want", want(64 * MIB), "why", U(1), "sev", U(2), "gen", gen, END);
    me.demanded_ms = now, me.move.live = false;
    if (hurts) me.stopped_ms = now, send_status(STALLED);
}
static void follow_move(void) {                                               /* within 1 MiB it has arrived */
    bool arrived = me.move.inflate ? present() <= me.move.answered + MIB : present() + MIB >= me.move.answered;
    if (me.move.live && me.move.state == WORKING && arrived) send_status(REACHED);
}

static void answer_move(bool inflate, uint32_t seq, const struct value *map) { /* 9.3, 9.6 to 9.10 */
    uint64_t gen = number(map, "gen", 0), eff;
    bool stale = gen < me.move.gen, again = gen == me.move.gen;
    int status = ACCEPTED, why = NONE;
    take_sample();
    if (stale) { say(BALLOON_ACK, RSP, "re", U(seq), "gen", me.move.gen, "st", U(STALE), "why", U(NONE), END); return; }
    if (!again) me.move.target = number(map, "target", 0), me.move.inflate = inflate;
    if (!again) me.move.floor = number(map, "floor", 0);
    eff = me.move.target;
    uint64_t limit = larger(floor_bytes(), unmovable());
    if (!me.move.inflate) {
        if (eff > ram()) status = CLAMPED, why = ABOVE_RAM, eff = ram();
    } else if (has(BALLOON) != mem[BALLOON].value) status = REFUSED, why = POLICY;  /* nobody could say when it is done */
    else if (boot_ms() < 30000) status = REFUSED, why = SETTLING;
    else if (pressed()) status = REFUSED, why = PRESSURE;
    else if (eff < limit)
        status = limit < present() ? CLAMPED : REFUSED, why = floor_bytes() < limit ? PRESSURE : FLOOR, eff = limit;
    bool consents = status != REFUSED && (!again || me.move.live);            /* what has ended does not come back */
    if (!consents) eff = present();
    me.move.live = consents, me.move.heard = true, me.move.gen = gen, me.move.answered = eff;
    if (consents) me.move.expires_ms = boot_ms() + number(map, "ttl_ms", 0);
    if (!again) me.move.state = consents ? WORKING : GAVE_UP;
    if (!again && inflate) me.stopped_ms = 0;
    say(BALLOON_ACK, RSP, "re", U(seq), "gen", gen, "st", U(again ? DUPLICATE : status), "eff", eff, "why", U(why), END);
    if (again || !consents) return;
    follow_move(), send_report();                                             /* 9.2 */
}

static void take_policy(uint32_t seq, const struct value *map) {              /* 6.15 */
    uint64_t gen = number(map, "gen", 0);
    int status = gen > me.policy_gen ? ACCEPTED : gen == me.policy_gen ? DUPLICATE : STALE;
    if (status == ACCEPTED) {
        me.policy_gen = gen, me.rep_ms = number(map, "rep_ms", me.rep_ms);
        me.policy_floor = number(map, "floor", me.policy_floor);
        if (me.policy_floor > ram()) status = CLAMPED;
        if (number(map, "psi_some", 0)) arm_trigger(number(map, "psi_some", 0));
    }
    say(POLICY_ACK, RSP, "re", U(seq), "gen", me.policy_gen, "st", U(status), END);
}

/* ---- 5: what the agent hears ------------------------------------------------------------------------------------ */
static void take_hello(uint64_t session, uint32_t seq, const struct value *map) { /* 5.1 */
    struct value v, item, limits = {0};
    struct writer w = {.bytes = {0x8f}, .size = 1};
    uint64_t gen = me.move.gen, state = me.move.heard ? U(me.move.state) : U(REACHED), majors[2];
    if (session != me.session) me.seq_out = me.seq_in = 0;
    me.session = session, me.seq_in = (uint32_t)larger(me.seq_in, seq);
    memset(&me.move, 0, sizeof me.move);
    me.policy_gen = me.policy_floor = me.stopped_ms = 0;
    find(map, "maj", &v);
    struct reader r = {v.bytes, v.end};
    for (int i = 0; i < 2; i++) read_value(&r, &item, 1), majors[i] = item.number;
    if (majors[0] > 1 || majors[1] < 1) { send_error(UNSUPPORTED_VERSION, seq, true); return; }  /* 12.1 */
    take_sample();
    find(map, "lim", &limits);
    me.ram = number(map, "ram", 0);
    me.rep_ms = smaller(larger(number(&limits, "rep_ms", 1000), 250), 60000);
    me.dead_ms = smaller(larger(number(&limits, "dead_ms", 10000), 2000), 60000);
    me.with_psi = false;
    find(map, "caps", &v);
    r = (struct reader){v.bytes, v.end};
    for (uint32_t i = 0; i < v.size && read_value(&r, &item, 1); i++)
        if (psi->value != UNKNOWN && item.size == 3 && !memcmp(item.bytes, "psi", 3)) me.with_psi = true;
    put_pair(&w, "re", seq);
    find(map, "nonce", &v);
    put_text(&w, "nonce"), put_bytes(&w, 0xc4, v.bytes, 16);
    put_pair(&w, "maj", 1), put_pair(&w, "min", 0);
    put_text(&w, "caps"), put_head(&w, 0x90 | me.with_psi, 0, 0);
    if (me.with_psi) put_text(&w, "psi");
    put_text(&w, "impl"), put_text(&w, "agent.c"), put_text(&w, "implv"), put_text(&w, "1");
    put_text(&w, "boot"), put_bytes(&w, 0xc4, me.boot, 16);
    put_pair(&w, "bt", boot_ms()), put_pair(&w, "page", U(sysconf(_SC_PAGESIZE))), put_pair(&w, "total", has(TOTAL));
    put_pair(&w, "floor", floor_bytes()), put_text(&w, "lim"), put_head(&w, 0x81, 0, 0), put_pair(&w, "frame", WIRE);
    put_pair(&w, "gen", gen), put_pair(&w, "st", state);
    me.state = ACTIVE;
    send_frame(HELLO_ACK, RSP, session, &w);
    send_report();
}

/* 5.6: one whole frame; the questions in their order. */
static void take_frame(const uint8_t *body, size_t size) {
    int type = body[1], flags = (int)get(body + 2, 2), code = 0;
    uint32_t seq = (uint32_t)get(body + 4, 4), crc = (uint32_t)get(body + size - 4, 4);
    uint64_t session = get(body + 8, 8);
    bool hello = type == HELLO && session, outside = !session && type == ERROR;
    struct reader r = {body + HEADER, body + size - 4};
    struct value map;
    if (body[0] != 1) { if (type != ERROR) send_error(UNSUPPORTED_VERSION, 0, false); return; }
    if (!hello && !outside && (!session || session != me.session)) {          /* 5.5 */
        if (me.state != CLOSED && (session || type != HELLO_REQ)) ask_for_session(1);
        return;
    }
    if (type == HELLO_REQ || type == HELLO_ACK || type == REPORT || type == DEMAND || type == BALLOON_ACK
        || type == BALLOON_STATUS || type == POLICY_ACK || type == EVENT) { send_error(NOT_PERMITTED, seq, false); return; }
    for (int i = 0; i < ECHOES; i++) if (type >= PING && type <= ERROR && me.echoes[i] == crc) return;
    if (!hello && !outside) {                                                 /* 5.3 */
        if (seq <= me.seq_in) return;
        drops[2].value += seq - me.seq_in - 1;
        me.seq_in = seq;
    }
    if (flags & CRITICAL) code = UNSUPPORTED_CRITICAL;
    else if (!FIELDS[type]) { if (flags & REQ) send_error(UNSUPPORTED_TYPE, seq, false); return; }
    else if (!hello && type != ERROR && me.state != ACTIVE) return;
    if (!code && (!read_value(&r, &map, 1) || map.kind != MAP || r.at != r.end)) code = BAD_MESSAGE;
    if (!code) code = check_fields(&map, FIELDS[type]);
    if (code) { if (type != ERROR) send_error(code, hello ? 0 : seq, false); return; }
    if (outside) return;
    if (!live()) me.move.live = false;
    me.heard_ms = now_ms(), me.unanswered = me.bad_in_a_row = 0, me.hello_due_ms = UNKNOWN;
    if (type == HELLO) take_hello(session, seq, &map);
    if (type == PING) say(PONG, RSP, "re", U(seq), "t", number(&map, "t", 0), "bt", boot_ms(), END);
    if (type == BYE) close_session(-1);
    if (type == INFLATE || type == DEFLATE) answer_move(type == INFLATE, seq, &map);
    if (type == SET_POLICY) take_policy(seq, &map);
}
static void take_bytes(const uint8_t *data, size_t size) {                    /* 3.4 */
    static uint8_t body[WIRE];
    for (size_t i = 0; i < size; i++) {
        if (data[i] && !me.held) me.begun_ms = now_ms();
        if (data[i] && me.held < WIRE) me.frame[me.held++] = data[i];
        if (data[i] || !me.held) continue;
        int n = me.held <= WIRE - 2 ? cobs_decode(me.frame, me.held, body) : BODY + 1;
        me.held = 0;
        if (n < HEADER + 4 || n > BODY || crc32(body, U(n) - 4) != get(body + n - 4, 4)) drops[n > BODY].value++;
        else take_frame(body, (size_t)n);
    }
}

/* ---- the loop --------------------------------------------------------------------------------------------------- */
static void read_port(void) {
    uint8_t data[WIRE];
    for (ssize_t n = 1; n > 0;) {
        n = read(me.in, data, sizeof data);
        if ((n < 0 && errno != EAGAIN && errno != EINTR) || (!n && !me.in)) exit(n < 0);  /* unplugged; end of input */
        if (!n) { me.host_there = false, me.held = 0, me.move.live = false; return; }     /* 2.2: no host now */
        if (!me.host_there) { me.host_there = true; ask_for_session(me.session ? 3 : 0); }
        if (n > 0) take_bytes(data, (size_t)n);
    }
}
static void tick(uint64_t step) {
    uint64_t now = now_ms();
    if (me.host_there && me.state == ACTIVE && !live() && me.hello_due_ms == UNKNOWN) {   /* 5.8: nobody is there */
        me.move.live = false;
        me.hello_why = 3, me.hello_pause_ms = 15000, me.hello_due_ms = now + 15000;
    }
    if (me.host_there && now >= me.hello_due_ms && me.unanswered < 64) send_hello_req();  /* half of a port's ring */
    if (me.held && now >= me.begun_ms + 2000) me.held = WIRE;                 /* 3.4: too late, whatever comes of it */
    if (me.move.live && boot_ms() >= me.move.expires_ms) {                    /* 9.9 */
        me.move.live = false;
        if (me.move.state == WORKING) send_status(EXPIRED);
    }
    if (me.stopped_ms && now >= me.stopped_ms + 1000) { me.stopped_ms = 0; if (pressed()) send_demand(); }
    if (!live() || now < me.sampled_ms + step) return;
    me.sampled_ms = now;
    take_sample(), follow_move();
    if (now >= me.reported_ms + me.rep_ms) send_report();
}

int main(int count, char **words) {
    char text[64] = "";
    if (count < 2) return fprintf(stderr, "usage: agent PORT|- [FLOOR_MIB [PROC_ROOT]]\n"), 2;
    me.own_floor = (count > 2 ? strtoull(words[2], 0, 10) : 128) * MIB;
    me.proc = count > 3 ? words[3] : "/proc";
    read_text("sys/kernel/random/boot_id", text, sizeof text);
    for (int i = 0, at = 0; i < 16 && text[at] && text[at + 1]; at += 2) {
        if (text[at] == '-') at++;
        me.boot[i++] = (uint8_t)strtoul((char[]){text[at], text[at + 1], 0}, 0, 16);
    }
    me.in = strcmp(words[1], "-") ? open(words[1], O_RDWR | O_CLOEXEC | O_NONBLOCK) : 0;
    me.out = me.in ? me.in : 1;
    if (me.in < 0) return perror(words[1]), 1;
    for (int i = 0; i < 2; i++) fcntl(i ? me.in : me.out, F_SETFL, fcntl(i ? me.in : me.out, F_GETFL) | O_NONBLOCK);
    arm_trigger(500);
    int poll = epoll_create1(EPOLL_CLOEXEC), watched = -1;
    struct epoll_event port = {.events = EPOLLIN | EPOLLOUT | EPOLLET}, stalls = {.events = EPOLLPRI, .data.fd = 1}, event;
    epoll_ctl(poll, EPOLL_CTL_ADD, me.in, &port);
    for (;;) {
        read_port();
        if (me.trigger != watched && me.trigger >= 0) epoll_ctl(poll, EPOLL_CTL_ADD, me.trigger, &stalls);
        watched = me.trigger;
        uint64_t step = me.move.live && me.move.state == WORKING ? 250 : smaller(me.rep_ms, 1000);
        int wait = me.host_there ? (int)step : 15000;                         /* an edge may be lost: look again */
        if (epoll_wait(poll, &event, 1, wait) > 0 && event.data.fd == 1) { me.pressed_ms = now_ms(); send_demand(); }
        tick(step);
    }
}
