/* receive PORT FILE: what a gateway's way in costs at least. A recvmmsg loop at 127.0.0.1:PORT until SIGTERM that counts;
 * with a FILE other than "-" it also appends each datagram to it as a line of JSON like the gateway's, payload in base64,
 * one write for every 100 datagrams (or for what there is, once none is waiting). What it leaves out: the Tag is a constant,
 * and nothing is queued between threads. */
#include "common.h"
#include <fcntl.h>

enum { BATCH = 32, LINES = 100, ROOM = 2048, LINE = 2 * ROOM + 512 };

static char pairs[4096][2]; /* 12 bits as two digits of base64 */
static char stamp[32];

static void make_pairs(void) {
    const char *digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < 4096; i++) pairs[i][0] = digits[i >> 6], pairs[i][1] = digits[i & 63];
}

static char *base64(char *out, const uint8_t *in, size_t length) {
    size_t at = 0;
    for (; at + 3 <= length; at += 3, out += 4) {
        uint32_t bits = in[at] << 16 | in[at + 1] << 8 | in[at + 2];
        memcpy(out, pairs[bits >> 12], 2);
        memcpy(out + 2, pairs[bits & 4095], 2);
    }
    if (at < length) {
        uint32_t bits = in[at] << 16 | (at + 1 < length ? in[at + 1] << 8 : 0);
        memcpy(out, pairs[bits >> 12], 2);
        out[2] = at + 1 < length ? pairs[bits & 4095][0] : '=';
        out[3] = '=';
        out += 4;
    }
    return out;
}

static char *text(char *out, const char *words, size_t length) { return (char *)memcpy(out, words, length) + length; }
#define TEXT(out, words) text(out, words, sizeof words - 1)

static char *decimal(char *out, unsigned value) {
    char digits[10];
    int count = 0;
    do digits[count++] = '0' + value % 10; while (value /= 10);
    while (count) *out++ = digits[--count];
    return out;
}

static char *address(char *out, const struct sockaddr_in *from) {
    const uint8_t *octets = (const uint8_t *)&from->sin_addr;
    for (int i = 0; i < 4; i++) {
        if (i) *out++ = '.';
        out = decimal(out, octets[i]);
    }
    return out;
}

static char *line(char *out, const struct sockaddr_in *from, int port, const void *payload, size_t length) {
    out = TEXT(out, "{\"Tag\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\",\"Remote\":{\"IpAddress\":\"");
    out = address(out, from);
    out = TEXT(out, "\",\"Port\":");
    out = decimal(out, ntohs(from->sin_port));
    out = TEXT(out, "},\"Local\":{\"Domain\":\"localhost\",\"IpAddress\":\"127.0.0.1\",\"Port\":");
    out = decimal(out, port);
    out = TEXT(out, ",\"Protocol\":\"udp\"},\"ReceivedAt\":\"");
    out = text(out, stamp, strlen(stamp));
    out = TEXT(out, "\",\"IngressRegion\":\"us-east-1\",\"Formatter\":\"base64\",\"Data\":\"");
    out = base64(out, payload, length);
    return TEXT(out, "\"}\n");
}

static void take_time(void) {
    struct timespec now;
    struct tm parts;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    size_t length = strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(stamp + length, sizeof stamp - length, ".%03dZ", (int)(now.tv_nsec / 1000000));
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    int port = atoi(argv[1]), fd = open_socket(INADDR_LOOPBACK, port), file = -1;
    if (strcmp(argv[2], "-") != 0 && (file = open(argv[2], O_WRONLY | O_APPEND | O_CREAT, 0644)) < 0) fail(argv[2]);
    wait_at_most(fd, 50);
    make_pairs();
    begin();

    static char data[BATCH][ROOM], lines[LINES * LINE];
    static struct mmsghdr batch[BATCH];
    static struct iovec parts[BATCH];
    static struct sockaddr_in from[BATCH];
    uint64_t received = 0;
    double first = 0, last = 0;
    char *out = lines;
    int waiting = 0;
    printf("ready\n");
    fflush(stdout);
    while (!stopping) {
        for (int i = 0; i < BATCH; i++) {
            parts[i] = (struct iovec){data[i], ROOM};
            batch[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1, .msg_name = &from[i], .msg_namelen = sizeof from[i]};
        }
        int count = recvmmsg(fd, batch, BATCH, waiting ? MSG_DONTWAIT : MSG_WAITFORONE, NULL);
        if (count > 0) {
            last = seconds();
            if (first == 0) first = last;
            received += count;
        }
        if (file < 0) continue;
        if (count > 0) take_time();
        for (int i = 0; i < count; i++, waiting++) {
            if (waiting == LINES) {
                if (write(file, lines, out - lines) < 0) fail("write");
                out = lines, waiting = 0;
            }
            out = line(out, &from[i], port, data[i], batch[i].msg_len);
        }
        if (count <= 0 && waiting) {
            if (write(file, lines, out - lines) < 0) fail("write");
            out = lines, waiting = 0;
        }
    }
    printf("{\"received\": %lu, \"seconds\": %.6f, \"cpu_seconds\": %.6f}\n", received, last - first, cpu_seconds());
    return 0;
}
