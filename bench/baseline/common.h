/* What the programs of the benchmarks share. Every datagram begins with its number: 8 bytes, the machine's order. */
#pragma once
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum { LARGEST = 65536, NUMBER = sizeof(uint64_t) };

static volatile sig_atomic_t stopping;

static inline void on_stop(int number) { (void)number; stopping = 1; }

static inline void fail(const char *what) {
    perror(what);
    exit(1);
}

/* Ends with the benchmark that started it, and stops to count on SIGTERM. */
static inline void begin(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct sigaction action = {.sa_handler = on_stop}; /* no SA_RESTART: a blocking call returns */
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
}

static inline double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static inline double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static inline struct sockaddr_in endpoint(uint32_t address, int port) {
    struct sockaddr_in found = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(address)};
    return found;
}

/* Remote number i of a benchmark: the whole of 127/8 reaches one socket that is bound to 0.0.0.0. */
static inline struct sockaddr_in remote(uint32_t i, int port) { return endpoint(0x7f400000u + i, port); }

/* A socket with buffers as large as the gateway's: 8 MiB asked for, or what the administrator allows. */
static inline int open_socket(uint32_t address, int port) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in bound = endpoint(address, port);
    int size = 8 << 20;
    if (fd < 0 || bind(fd, (struct sockaddr *)&bound, sizeof bound) < 0) fail("open a socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    return fd;
}

static inline void wait_at_most(int fd, int milliseconds) {
    struct timeval limit = {.tv_usec = milliseconds * 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
}
