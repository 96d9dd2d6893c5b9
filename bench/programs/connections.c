/* Opens connections, one request each, and says how it went as one line of JSON.
 *
 *     connections ADDRESS PORT COUNT RATE MOST
 *
 * COUNT connections in all. RATE a second, evenly spread and whatever becomes of those before
 * (an open loop); with RATE 0 the next begins when one has ended, MOST at a time (a closed loop).
 * In the open loop one that would be more than MOST at a time is not begun, but counted, and the
 * program asks to run before ordinary ones (SCHED_FIFO): late connections would come in bunches.
 * latest_ms is how much later than it should one was begun, at most.
 *
 * Each sends an HTTP/1.0 request and reads until the server closes. It is complete if the
 * answer's first line says 200; one that takes longer than PATIENCE_S has failed.
 *
 * connect_us: from connect() to the moment at which epoll says that it is done, sorted.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_S 10.0
#define EVENTS 256

static const char request[] = "GET / HTTP/1.0\r\nHost: server\r\n\r\n";
static const char good[] = "HTTP/1.1 200";

struct connection {
    int fd; /* -1: free */
    bool connected;
    bool is_good;
    size_t got;
    double begun;
    uint32_t later; /* the one that was begun next */
};

static struct connection *connections;
static uint32_t *unused;
static uint32_t most, free_count;
static double *connect_us;
static uint64_t begun_count, connected_count, complete, failed, not_begun;
static char first_error[128];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fatal(const char *what)
{
    fprintf(stderr, "connections: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void end(struct connection *one, bool is_complete, const char *why, int error)
{
    if (is_complete) {
        complete++;
    } else {
        failed++;
        if (!first_error[0])
            snprintf(first_error, sizeof first_error, "%s: %s", why, strerror(error));
    }
    close(one->fd);
    one->fd = -1;
    unused[free_count++] = (uint32_t)(one - connections);
}

static void begin(int poll, const struct sockaddr_in *server)
{
    struct connection *one = &connections[unused[--free_count]];
    begun_count++;
    *one = (struct connection){.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)};
    if (one->fd < 0)
        fatal("socket");
    one->begun = now();
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = one};
    if (connect(one->fd, (const struct sockaddr *)server, sizeof *server) && errno != EINPROGRESS)
        end(one, false, "connect", errno);
    else if (epoll_ctl(poll, EPOLL_CTL_ADD, one->fd, &event))
        fatal("epoll_ctl");
}

static void connected(int poll, struct connection *one)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(one->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        end(one, false, "connect", error);
        return;
    }
    connect_us[connected_count++] = (now() - one->begun) * 1e6;
    one->connected = true;
    if (send(one->fd, request, sizeof request - 1, MSG_NOSIGNAL) != (ssize_t)sizeof request - 1) {
        end(one, false, "send", errno);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
    if (epoll_ctl(poll, EPOLL_CTL_MOD, one->fd, &event))
        fatal("epoll_ctl");
}

static void readable(struct connection *one)
{
    static char data[65536];
    for (;;) {
        ssize_t size = recv(one->fd, data, sizeof data, 0);
        if (size > 0) {
            if (!one->got)
                one->is_good = !strncmp(data, good, sizeof good - 1);
            one->got += (size_t)size;
            if ((size_t)size == sizeof data)
                continue;
            return; /* the end is told by another event */
        }
        if (size == 0)
            end(one, one->is_good, one->got ? "an answer other than 200" : "closed", 0);
        else if (errno != EAGAIN)
            end(one, false, "recv", errno);
        return;
    }
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(double percent)
{
    if (!connected_count)
        return 0;
    uint64_t index = (uint64_t)(percent / 100 * (double)connected_count);
    return connect_us[index < connected_count ? index : connected_count - 1];
}

static void give_up_old(double at)
{
    for (uint32_t i = 0; i < most; i++)
        if (connections[i].fd >= 0 && at - connections[i].begun > PATIENCE_S)
            end(&connections[i], false, "not done in time", ETIMEDOUT);
}

static uint64_t number(const char *text)
{
    char *rest;
    errno = 0;
    uint64_t value = strtoull(text, &rest, 10);
    if (errno || rest == text || *rest) {
        fprintf(stderr, "connections: %s is no number\n", text);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv)
{
    struct sockaddr_in server = {.sin_family = AF_INET};
    if (argc != 6 || inet_pton(AF_INET, argv[1], &server.sin_addr) != 1) {
        fprintf(stderr, "usage: connections ADDRESS PORT COUNT RATE MOST\n");
        return 2;
    }
    server.sin_port = htons((uint16_t)number(argv[2]));
    uint64_t count = number(argv[3]), rate = number(argv[4]);
    most = (uint32_t)number(argv[5]);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    connections = calloc(most, sizeof *connections);
    unused = calloc(most, sizeof *unused);
    connect_us = calloc(count, sizeof *connect_us);
    int poll = epoll_create1(EPOLL_CLOEXEC);
    if (!connections || !unused || !connect_us || poll < 0)
        fatal("start");
    for (uint32_t i = 0; i < most; i++) {
        connections[i].fd = -1;
        unused[free_count++] = i;
    }
    struct sched_param first = {.sched_priority = 1};
    if (rate)
        sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first); /* or as it is */
    double started = now(), looked = started, latest = 0;
    while (begun_count + not_begun < count || free_count < most) {
        double at = now();
        uint64_t due = rate ? (uint64_t)((at - started) * (double)rate) + 1 : count;
        if (due > count)
            due = count;
        while (begun_count + not_begun < due) {
            if (free_count) {
                if (rate) {
                    double late = at - started - (double)(begun_count + not_begun) / (double)rate;
                    if (late > latest)
                        latest = late;
                }
                begin(poll, &server);
            } else if (rate) {
                not_begun++;
            } else {
                break;
            }
        }
        struct timespec wait = {.tv_nsec = 100000000};
        if (rate && due < count) {
            double next = started + (double)due / (double)rate - now();
            wait.tv_nsec = next > 0 ? (long)(next * 1e9) + 1 : 0;
            if (wait.tv_nsec > 100000000)
                wait.tv_nsec = 100000000;
        }
        struct epoll_event events[EVENTS];
        int ready = epoll_pwait2(poll, events, EVENTS, &wait, NULL);
        if (ready < 0 && errno != EINTR)
            fatal("epoll_pwait2");
        for (int i = 0; i < ready; i++) {
            struct connection *one = events[i].data.ptr;
            if (!one->connected)
                connected(poll, one);
            else
                readable(one);
        }
        if (at - looked > 1.0) {
            looked = at;
            give_up_old(at);
        }
    }
    double took = now() - started;
    qsort(connect_us, connected_count, sizeof *connect_us, by_size);
    for (char *c = first_error; *c; c++)
        if (*c == '"' || *c == '\\')
            *c = '\'';
    printf("{\"complete\": %lu, \"failed\": %lu, \"not_begun\": %lu, \"took_s\": %.6f,"
           " \"latest_ms\": %.3f, \"connect_p50_us\": %.1f, \"connect_p99_us\": %.1f,"
           " \"connect_max_us\": %.1f, \"error\": \"%s\"}\n",
           (unsigned long)complete, (unsigned long)failed, (unsigned long)not_begun, took,
           latest * 1000, percentile(50), percentile(99), percentile(100), first_error);
    return 0;
}
