/* send HOW PORT REMOTES SIZE COUNT [TUNNEL]: what a gateway's way out costs at least. COUNT datagrams of SIZE, all from one
 * socket, to REMOTES remotes in turn (127.64.0.0 and on, at PORT), numbered from 0 to below REMOTES or 100,000, whichever is
 * more. TUNNEL: to 10.64.0.0 and on, by whatever route leads there.
 * HOW: sendto, one call each; sendmmsg, one call for 64; segment, one call for a run of up to 64 (UDP_SEGMENT, one remote). */
#include "common.h"

enum { BATCH = 64, NUMBERS = 100000, RUN_BYTES = 65000 };

static char payload[BATCH][LARGEST / BATCH * 2];

int main(int argc, char **argv) {
    if (argc != 6 && argc != 7) return 2;
    int tunnel = argc == 7, port = atoi(argv[2]), size = atoi(argv[4]), fd = open_socket(tunnel ? INADDR_ANY : INADDR_LOOPBACK, 0);
    uint64_t remotes = atoi(argv[3]), count = strtoull(argv[5], NULL, 10), sent = 0, calls = 0;
    uint64_t numbers = remotes > NUMBERS ? remotes : NUMBERS;
    if (size > (int)sizeof payload[0]) return 2;
    memset(payload, 'x', sizeof payload);
    begin();
    double start = seconds(), cpu = cpu_seconds();
    if (strcmp(argv[1], "sendto") == 0) {
        for (; sent < count && !stopping; sent++, calls++) {
            uint64_t number = sent % numbers;
            struct sockaddr_in to = tunnel ? endpoint(0x0a400000u + sent % remotes, port) : remote(sent % remotes, port);
            memcpy(payload[0], &number, NUMBER);
            if (sendto(fd, payload[0], size, 0, (struct sockaddr *)&to, sizeof to) < 0) fail("sendto");
        }
    } else if (strcmp(argv[1], "sendmmsg") == 0) {
        static struct mmsghdr batch[BATCH];
        static struct iovec parts[BATCH];
        static struct sockaddr_in to[BATCH];
        while (sent < count && !stopping) {
            int length = count - sent < BATCH ? (int)(count - sent) : BATCH;
            for (int i = 0; i < length; i++) {
                uint64_t number = (sent + i) % numbers;
                to[i] = remote((sent + i) % remotes, port);
                memcpy(payload[i], &number, NUMBER);
                parts[i] = (struct iovec){payload[i], size};
                batch[i].msg_hdr = (struct msghdr){.msg_name = &to[i], .msg_namelen = sizeof to[i], .msg_iov = &parts[i], .msg_iovlen = 1};
            }
            int done = sendmmsg(fd, batch, length, 0);
            if (done < 0) fail("sendmmsg");
            sent += done, calls++;
        }
    } else {
        struct sockaddr_in to = remote(0, port);
        int most = RUN_BYTES / size < BATCH ? RUN_BYTES / size : BATCH;
        static char run[LARGEST];
        if (setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size) < 0) fail("UDP_SEGMENT");
        memset(run, 'x', sizeof run);
        while (sent < count && !stopping) {
            int length = count - sent < (uint64_t)most ? (int)(count - sent) : most;
            for (int i = 0; i < length; i++) {
                uint64_t number = (sent + i) % numbers;
                memcpy(run + (size_t)i * size, &number, NUMBER);
            }
            if (sendto(fd, run, (size_t)length * size, 0, (struct sockaddr *)&to, sizeof to) < 0) fail("sendto");
            sent += length, calls++;
        }
    }
    printf("{\"sent\": %lu, \"calls\": %lu, \"seconds\": %.6f, \"cpu_seconds\": %.6f}\n", sent, calls, seconds() - start, cpu_seconds() - cpu);
    return 0;
}
