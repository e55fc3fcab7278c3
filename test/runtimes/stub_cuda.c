/* A stand-in for libcuda.so.1 in the tests of call order, arguments and cleanup. It is no GPU and emulates none:
 * "device" memory is host memory, and the only kernel writes 255 - x. What it checks is what our code owes the
 * driver: a current context, ranges inside of allocations, streams that are synchronised before results are
 * read, captures that end, and that everything made is destroyed. Work runs at cuStreamSynchronize only.
 *
 * stub_calls: the functions called so far, one a line. stub_fail: the call number `at` from now on (from 1)
 * returns `status`. stub_live: how many objects wait for being freed. stub_reset: forget it all.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t Address;
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_CONTEXT = 201, BAD_HANDLE = 400, CAPTURE_WRONG = 901 };
enum { MOST = 256, LOG = 1 << 20 };

typedef struct { char kind; char *to, *from; size_t size; } Work; /* kind: u(p), d(own), k(ernel) */
typedef struct { Work work[MOST]; int count; } List;
typedef struct { List queued; List *capture; } Stream;
typedef struct { char *start; size_t size; } Range;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char calls[LOG];
static size_t logged;
static int fail_at, fail_status, live;
static Range device[MOST], host[MOST];
static __thread int depth;

static int enter(const char *name, int needs_context) {
  size_t length = strlen(name);
  if (logged + length + 2 < LOG) {
    memcpy(calls + logged, name, length);
    calls[logged + length] = '\n';
    calls[logged += length + 1] = 0;
  }
  if (fail_at > 0 && --fail_at == 0) return fail_status;
  return needs_context && depth == 0 ? OUT_OF_CONTEXT : OK;
}

/* Runs BODY under the lock unless the call is to fail; BODY sets `status`. */
#define CALL(NAME, NEEDS, BODY)            \
  pthread_mutex_lock(&lock);               \
  int status = enter(NAME, NEEDS);         \
  if (status == OK) { BODY }               \
  pthread_mutex_unlock(&lock);             \
  return status;

static int add(Range *ranges, void *start, size_t size) {
  for (int i = 0; i < MOST; i++)
    if (ranges[i].start == NULL) {
      ranges[i] = (Range){start, size};
      live++;
      return OK;
    }
  return INVALID_VALUE;
}

static int drop(Range *ranges, void *start) {
  for (int i = 0; i < MOST; i++)
    if (start != NULL && ranges[i].start == start) {
      ranges[i] = (Range){NULL, 0};
      live--;
      return OK;
    }
  return INVALID_VALUE;
}

static int inside(const Range *ranges, const char *start, size_t size) {
  for (int i = 0; i < MOST; i++)
    if (ranges[i].start != NULL && start >= ranges[i].start && start + size <= ranges[i].start + ranges[i].size)
      return 1;
  return 0;
}

static int put(Stream *stream, Work work) {
  const char *on_device = work.kind == 'd' ? work.from : work.to;
  if (stream == NULL || !inside(device, on_device, work.size)) return INVALID_VALUE;
  if (work.kind == 'k' && !inside(device, work.from, work.size)) return INVALID_VALUE;
  /* a capture may hold page-locked memory only */
  const char *on_host = work.kind == 'u' ? work.from : work.to;
  if (stream->capture && work.kind != 'k' && !inside(host, on_host, work.size)) return CAPTURE_WRONG;
  List *list = stream->capture ? stream->capture : &stream->queued;
  if (list->count == MOST) return INVALID_VALUE;
  list->work[list->count++] = work;
  return OK;
}

static void execute(List *list) {
  for (int i = 0; i < list->count; i++) {
    Work work = list->work[i];
    for (size_t at = 0; at < work.size; at++)
      work.to[at] = work.kind == 'k' ? (char)(255 - (unsigned char)work.from[at]) : work.from[at];
  }
  list->count = 0;
}

const char *stub_calls(void) { return calls; }
int stub_live(void) { return live; }
int stub_depth(void) { return depth; }
void stub_fail(int at, int status) { fail_at = at; fail_status = status; }
void stub_reset(void) { logged = 0; calls[0] = 0; fail_at = 0; }

/* The one kernel: what a test's execution context queues in place of a network. */
int stub_negative(Address to, Address from, size_t size, Stream *stream) {
  CALL("negative", 1, status = put(stream, (Work){'k', (char *)to, (char *)from, size});)
}

int cuInit(unsigned flags) { CALL("cuInit", 0, status = flags ? INVALID_VALUE : OK;) }
int cuGetErrorName(int error, const char **name) { *name = error ? "STUB_ERROR" : "STUB_SUCCESS"; return OK; }
int cuGetErrorString(int error, const char **text) { *text = error ? "as the test wants" : "no error"; return OK; }
int cuDeviceGetCount(int *count) { CALL("cuDeviceGetCount", 0, *count = 1;) }
int cuDeviceGet(int *handle, int index) { CALL("cuDeviceGet", 0, *handle = 7 + index;) }
int cuDeviceGetName(char *name, int size, int handle) {
  CALL("cuDeviceGetName", 0, status = handle == 7 ? OK : INVALID_VALUE; snprintf(name, size, "Stub of a GPU");)
}
int cuDeviceGetAttribute(int *value, int which, int handle) {
  CALL("cuDeviceGetAttribute", 0, status = handle == 7 ? OK : INVALID_VALUE; *value = which == 75 ? 8 : 6;)
}
int cuDevicePrimaryCtxRetain(void **context, int handle) {
  CALL("cuDevicePrimaryCtxRetain", 0, status = handle == 7 ? OK : INVALID_VALUE; *context = &live; live++;)
}
int cuDevicePrimaryCtxRelease_v2(int handle) {
  CALL("cuDevicePrimaryCtxRelease_v2", 0, status = handle == 7 ? OK : INVALID_VALUE; live--;)
}
int cuCtxPushCurrent_v2(void *context) {
  CALL("cuCtxPushCurrent_v2", 0, status = context == &live ? OK : INVALID_VALUE; depth += status == OK;)
}
int cuCtxPopCurrent_v2(void **context) { CALL("cuCtxPopCurrent_v2", 1, *context = &live; depth--;) }

int cuMemAlloc_v2(Address *address, size_t size) {
  CALL("cuMemAlloc_v2", 1, char *memory = calloc(1, size); status = add(device, memory, size);
       *address = (Address)memory;)
}
int cuMemFree_v2(Address address) {
  CALL("cuMemFree_v2", 1, status = drop(device, (void *)address); if (status == OK) free((void *)address);)
}
int cuMemHostRegister_v2(void *start, size_t size, unsigned flags) {
  CALL("cuMemHostRegister_v2", 1, status = flags || (uintptr_t)start % 4096 ? INVALID_VALUE : add(host, start, size);)
}
int cuMemHostUnregister(void *start) { CALL("cuMemHostUnregister", 1, status = drop(host, start);) }
int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t size, Stream *stream) {
  CALL("cuMemcpyHtoDAsync_v2", 1, status = put(stream, (Work){'u', (char *)to, (char *)from, size});)
}
int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t size, Stream *stream) {
  CALL("cuMemcpyDtoHAsync_v2", 1, status = put(stream, (Work){'d', to, (char *)from, size});)
}

int cuStreamCreate(Stream **stream, unsigned flags) {
  CALL("cuStreamCreate", 1, status = flags == 1 ? OK : INVALID_VALUE; *stream = calloc(1, sizeof(Stream)); live++;)
}
int cuStreamDestroy_v2(Stream *stream) { CALL("cuStreamDestroy_v2", 1, free(stream); live--;) }
int cuStreamSynchronize(Stream *stream) {
  CALL("cuStreamSynchronize", 1, status = stream->capture ? CAPTURE_WRONG : OK;
       if (status == OK) execute(&stream->queued);)
}
int cuStreamBeginCapture_v2(Stream *stream, int mode) {
  CALL("cuStreamBeginCapture_v2", 1, status = mode != 1 || stream->capture ? CAPTURE_WRONG : OK;
       if (status == OK) { stream->capture = calloc(1, sizeof(List)); live++; })
}
int cuStreamEndCapture(Stream *stream, List **graph) { /* a failure, too, ends the capture: without a graph */
  pthread_mutex_lock(&lock);
  int status = enter("cuStreamEndCapture", 1);
  if (status == OK && !stream->capture) status = CAPTURE_WRONG;
  *graph = stream->capture;
  stream->capture = NULL;
  if (status != OK && *graph) {
    free(*graph);
    *graph = NULL;
    live--;
  }
  pthread_mutex_unlock(&lock);
  return status;
}
int cuGraphInstantiateWithFlags(List **executable, List *graph, uint64_t flags) {
  CALL("cuGraphInstantiateWithFlags", 1, status = graph && !flags ? OK : INVALID_VALUE;
       if (status == OK) { *executable = malloc(sizeof(List)); **executable = *graph; live++; })
}
int cuGraphLaunch(List *executable, Stream *stream) {
  CALL("cuGraphLaunch", 1, for (int i = 0; i < executable->count && status == OK; i++)
       status = put(stream, executable->work[i]);)
}
int cuGraphExecDestroy(List *executable) { CALL("cuGraphExecDestroy", 1, free(executable); live--;) }
int cuGraphDestroy(List *graph) { CALL("cuGraphDestroy", 1, status = graph ? OK : BAD_HANDLE; if (graph) { free(graph); live--; }) }
