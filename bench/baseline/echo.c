/* echo PORT SIZE SECONDS SOCKETS WINDOW: asks 127.0.0.1:PORT as fast as it answers. At most WINDOW datagrams are unanswered
 * at a time, spread over SOCKETS source ports; one that got no answer within a second is lost and makes room for the next.
 * Counts answers by number: one that comes again, or too late, is `strange`. Prints answers, losses and round trips. */
#include "common.h"
#include <sys/epoll.h>

enum { LATE_MS = 1000, BUCKETS = 1 << 20 };

static char payload[LARGEST];
static uint32_t microseconds[BUCKETS]; /* histogram of round trips */
static double *asked;                  /* when the datagram in each place of the window was sent; 0: free */
static uint64_t *numbers, sent, answered, in_time, strange;

static uint64_t percentile(double part) {
    uint64_t below = 0;
    for (int i = 0; i < BUCKETS; i++)
        if ((below += microseconds[i]) > answered * part) return i;
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    int size = atoi(argv[2]), count = atoi(argv[4]), window = atoi(argv[5]), waiting = 0;
    double duration = atof(argv[3]);
    int *sockets = calloc(count, sizeof *sockets), poll = epoll_create1(EPOLL_CLOEXEC);
    struct sockaddr_in to = endpoint(INADDR_LOOPBACK, atoi(argv[1]));
    asked = calloc(window, sizeof *asked);
    numbers = calloc(window, sizeof *numbers);
    int *unused = calloc(window, sizeof *unused);
    begin();
    for (int i = 0; i < window; i++) unused[i] = i;
    for (int i = 0; i < count; i++) {
        sockets[i] = open_socket(INADDR_LOOPBACK, 0);
        if (connect(sockets[i], (struct sockaddr *)&to, sizeof to) < 0) fail("connect");
        struct epoll_event event = {.events = EPOLLIN, .data.fd = sockets[i]};
        epoll_ctl(poll, EPOLL_CTL_ADD, sockets[i], &event);
    }
    memset(payload, 'x', sizeof payload);
    double start = seconds(), now = start, swept = start;
    while (!stopping && (now - start < duration || (waiting && now - start < duration + LATE_MS / 1e3))) {
        while (waiting < window && now - start < duration) {
            uint64_t place = unused[window - ++waiting];
            asked[place] = seconds(), numbers[place] = sent;
            memcpy(payload, &sent, NUMBER);
            memcpy(payload + NUMBER, &place, sizeof place);
            if (send(sockets[sent % count], payload, size, 0) < 0 && errno != ECONNREFUSED) fail("send");
            sent++;
        }
        struct epoll_event ready[64];
        int found = epoll_wait(poll, ready, 64, 0);
        if (found == 0) { /* looks again soon: to wake a sleeper would cost the tested core, as no remote machine does */
            struct timespec pause = {.tv_nsec = 200000};
            nanosleep(&pause, NULL);
        }
        now = seconds();
        for (int i = 0; i < found; i++) {
            uint64_t answer[2];
            while (recv(ready[i].data.fd, answer, sizeof answer, MSG_DONTWAIT) == sizeof answer) {
                if (answer[1] >= (uint64_t)window || asked[answer[1]] == 0 || numbers[answer[1]] != answer[0]) {
                    strange++;
                    continue;
                }
                uint64_t took = (uint64_t)((now - asked[answer[1]]) * 1e6);
                microseconds[took < BUCKETS ? took : BUCKETS - 1]++;
                asked[answer[1]] = 0;
                unused[window - waiting--] = (int)answer[1];
                answered++;
                in_time += now - start < duration;
            }
        }
        if (now - swept > 0.05) {
            swept = now;
            for (int i = 0; i < window; i++) {
                if (asked[i] == 0 || now - asked[i] < LATE_MS / 1e3) continue;
                asked[i] = 0;
                unused[window - waiting--] = i;
            }
        }
    }
    printf("{\"sent\": %lu, \"answered\": %lu, \"in_time\": %lu, \"lost\": %lu, \"strange\": %lu, \"seconds\": %.6f, \"p50_us\": %lu, \"p99_us\": %lu}\n",
           sent, answered, in_time, sent - answered, strange, duration, percentile(0.5), percentile(0.99));
    return 0;
}
