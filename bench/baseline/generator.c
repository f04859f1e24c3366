/* generator PORT SIZE SECONDS RATE SOCKETS [RUN]: numbered datagrams to 127.0.0.1:PORT, one after the other from each of
 * SOCKETS source ports; RATE a second, 0: as fast as it can. RUN datagrams leave by one call (UDP_SEGMENT). Prints what it
 * sent. */
#include "common.h"

int main(int argc, char **argv) {
    if (argc != 6 && argc != 7) return 2;
    int port = atoi(argv[1]), size = atoi(argv[2]), count = atoi(argv[5]), run = argc == 7 ? atoi(argv[6]) : 1;
    double duration = atof(argv[3]), rate = atof(argv[4]);
    static char payload[LARGEST];
    if (run < 1 || run * size >= LARGEST) return 2;
    int *sockets = calloc(count, sizeof *sockets);
    struct sockaddr_in to = endpoint(INADDR_LOOPBACK, port);
    begin();
    for (int i = 0; i < count; i++) {
        sockets[i] = open_socket(INADDR_LOOPBACK, 0);
        if (connect(sockets[i], (struct sockaddr *)&to, sizeof to) < 0) fail("connect");
        if (run > 1 && setsockopt(sockets[i], IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size) < 0) fail("UDP_SEGMENT");
    }
    memset(payload, 'x', sizeof payload);
    uint64_t sent = 0, refused = 0, calls = 0;
    double start = seconds(), now = start;
    while (!stopping && (now = seconds()) - start < duration) {
        uint64_t due = rate > 0 ? (uint64_t)((now - start) * rate) : sent + 64 * run;
        if (due < sent + run) {
            struct timespec pause = {.tv_nsec = 200000};
            nanosleep(&pause, NULL);
        }
        for (; sent + run <= due; sent += run, calls++) {
            for (uint64_t i = 0, number = sent; i < (uint64_t)run; i++, number++) memcpy(payload + i * size, &number, NUMBER);
            if (send(sockets[calls % count], payload, run * size, 0) < 0) refused += run;
        }
    }
    printf("{\"sent\": %lu, \"refused\": %lu, \"seconds\": %.6f}\n", sent - refused, refused, now - start);
    return 0;
}
