/* The entry points of NCCL and of CUDA's driver that ranks use, on the host: what NCCL's binding is tried with where there
 * is no GPU. Memory of the host stands for a device's; ranks of one machine meet in shared memory. Like the real ones it
 * insists on order: a call must lie behind an event of stream 0, on a stream and in a context that it knows.
 *   STUB_LOG   a file that gets a line a call: rank, name
 *   STUB_FAIL  init, call or async: what fails (with a text as NCCL's); late: rank 1 never comes
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { RANKS = 8, SLOT = 1 << 16 };

typedef struct { char bytes[128]; } ncclUniqueId;

typedef struct {
    atomic_int arrived, phase;
    char slots[RANKS][SLOT];
} Shared;

typedef struct {
    int size, rank, phase;
    Shared *shared;
    char name[128];
} Communicator;

typedef struct { int is_behind_default, queries; } Stream;
typedef struct { int is_of_default, left; } Event;

static int self = -1, groups = 0, stuck = 0;
/* as in CUDA, a thread has a context or not */
static _Thread_local int has_context = 0, pushed = 0;
static const char *last_error = "";

static int fails(const char *what) {
    const char *given = getenv("STUB_FAIL");
    return given && strcmp(given, what) == 0;
}

static void say(const char *name) {
    const char *path = getenv("STUB_LOG");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) {
        fprintf(file, "%d %s\n", self, name);
        fclose(file);
    }
}

/* CUDA's driver */

int cuInit(unsigned flags) { (void)flags; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal < RANKS ? 0 : 101; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)(intptr_t)(device + 1); return 0; }
int cuCtxSetCurrent(void *context) { has_context = context != NULL; return 0; }
int cuCtxPushCurrent_v2(void *context) { pushed += context != NULL; return context ? 0 : 201; }
int cuCtxPopCurrent_v2(void **context) { pushed--; *context = NULL; return 0; }

int cuStreamCreate(void **stream, unsigned flags) {
    if (!has_context) return 201;
    if (flags != 1) return 1;
    say("cuStreamCreate");
    *stream = calloc(1, sizeof(Stream));
    return 0;
}

int cuStreamDestroy_v2(void *stream) { say("cuStreamDestroy"); free(stream); return 0; }

int cuEventCreate(void **event, unsigned flags) {
    (void)flags;
    if (!has_context && !pushed) return 201;
    *event = calloc(1, sizeof(Event));
    return 0;
}

int cuEventDestroy_v2(void *event) { free(event); return 0; }

int cuEventRecord(void *event, void *stream) {
    Event *own = event;
    if (!has_context && !pushed) return 201;
    own->is_of_default = stream == NULL;
    own->left = 3; /* it comes after some queries */
    return 0;
}

int cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    (void)flags;
    ((Stream *)stream)->is_behind_default = ((Event *)event)->is_of_default;
    return 0;
}

int cuEventQuery(void *event) {
    Event *own = event;
    if (stuck) return 600;
    if (own->left > 0) own->left--;
    return own->left > 0 ? 600 : 0;
}

int cuPointerGetAttribute(int *data, int attribute, void *address) {
    (void)address;
    *data = 2;
    return attribute == 2 ? 0 : 1;
}

int cuGetErrorString(int code, const char **text) {
    *text = code == 201 ? "invalid device context" : code == 101 ? "invalid device ordinal" : "invalid argument";
    return 0;
}

/* NCCL */

const char *ncclGetErrorString(int code) {
    return code == 1 ? "unhandled cuda error" : code == 2 ? "unhandled system error" : code == 3 ? "internal error" : code == 4 ? "invalid argument"
         : code == 5 ? "invalid usage" : code == 6 ? "remote process exited or there was a network error" : "no error";
}

const char *ncclGetLastError(void *communicator) { (void)communicator; return last_error; }

int ncclGetUniqueId(ncclUniqueId *id) {
    memset(id, 0, sizeof *id);
    snprintf(id->bytes, sizeof id->bytes, "/sama-stub-%d-%ld", getpid(), random());
    id->bytes[127] = 42; /* all of it has to arrive */
    return 0;
}

static void barrier(Communicator *c) {
    int phase = ++c->phase;
    if (atomic_fetch_add(&c->shared->arrived, 1) + 1 == c->size) {
        atomic_store(&c->shared->arrived, 0);
        atomic_store(&c->shared->phase, phase);
    }
    while (atomic_load(&c->shared->phase) < phase) sched_yield();
}

int ncclCommInitRank(void **communicator, int size, ncclUniqueId id, int rank) {
    self = rank;
    say("ncclCommInitRank");
    if (id.bytes[127] != 42 || size > RANKS || rank >= size) return 4;
    if (!has_context) return 5;
    if (fails("init")) {
        last_error = "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 0";
        return 5;
    }
    int file = shm_open(id.bytes, O_CREAT | O_RDWR, 0600);
    if (file < 0 || ftruncate(file, sizeof(Shared)) != 0) return 2;
    Communicator *c = calloc(1, sizeof *c);
    c->size = size;
    c->rank = rank;
    strcpy(c->name, id.bytes);
    c->shared = mmap(NULL, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    barrier(c);
    *communicator = c;
    return 0;
}

static float wide(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static uint16_t narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static int width(int kind) { return kind == 7 ? 4 : kind == 8 ? 8 : kind == 1 ? 1 : 2; }

static double read_at(const char *at, int kind, size_t i) {
    return kind == 7 ? ((const float *)at)[i] : kind == 8 ? ((const double *)at)[i]
         : kind == 9 ? wide(((const uint16_t *)at)[i]) : (double)((const _Float16 *)at)[i];
}

static void write_at(char *at, int kind, size_t i, double x) {
    if (kind == 7) ((float *)at)[i] = (float)x;
    else if (kind == 8) ((double *)at)[i] = x;
    else if (kind == 9) ((uint16_t *)at)[i] = narrow((float)x);
    else ((_Float16 *)at)[i] = (_Float16)x;
}

static int begin(const char *name, Communicator *c, Stream *stream) {
    say(name);
    if (!c || !stream || !stream->is_behind_default) {
        last_error = "the stream is not behind what stream 0 has been given";
        return 5;
    }
    if (fails("call")) {
        last_error = "Cuda failure 'out of memory'";
        return 1;
    }
    if (fails("async") || (fails("late") && c->rank == 1)) stuck = 1;
    return 0;
}

int ncclAllReduce(const void *from, void *into, size_t count, int kind, int operation, void *communicator, void *stream) {
    Communicator *c = communicator;
    int code = begin("ncclAllReduce", c, stream);
    if (code || stuck) return code;
    if ((operation != 0 && operation != 4) || kind < 6 || kind > 9) return 4;
    size_t bytes = width(kind), step = SLOT / bytes;
    for (size_t start = 0; start < count; start += step) {
        size_t length = count - start < step ? count - start : step;
        memcpy(c->shared->slots[c->rank], (const char *)from + start * bytes, length * bytes);
        barrier(c);
        for (size_t i = 0; i < length; i++) {
            double sum = 0;
            for (int r = 0; r < c->size; r++) sum += read_at(c->shared->slots[r], kind, i);
            write_at((char *)into + start * bytes, kind, i, operation == 4 ? sum / c->size : sum);
        }
        barrier(c);
    }
    return 0;
}

int ncclBroadcast(const void *from, void *into, size_t count, int kind, int root, void *communicator, void *stream) {
    Communicator *c = communicator;
    int code = begin("ncclBroadcast", c, stream);
    if (code || stuck) return code;
    size_t bytes = count * width(kind);
    for (size_t start = 0; start < bytes; start += SLOT) {
        size_t length = bytes - start < SLOT ? bytes - start : SLOT;
        if (c->rank == root) memcpy(c->shared->slots[0], (const char *)from + start, length);
        barrier(c);
        if (c->rank != root) memcpy((char *)into + start, c->shared->slots[0], length);
        barrier(c);
    }
    return 0;
}

int ncclGroupStart(void) { say("ncclGroupStart"); groups++; return 0; }
int ncclGroupEnd(void) { say("ncclGroupEnd"); return --groups < 0 ? 5 : 0; }

int ncclCommGetAsyncError(void *communicator, int *code) {
    (void)communicator;
    if (stuck && fails("async")) {
        last_error = "Connection closed by remote peer";
        *code = 6;
    } else {
        *code = 0;
    }
    return 0;
}

int ncclCommAbort(void *communicator) {
    say("ncclCommAbort");
    shm_unlink(((Communicator *)communicator)->name);
    return 0;
}

int ncclCommDestroy(void *communicator) {
    say("ncclCommDestroy");
    shm_unlink(((Communicator *)communicator)->name);
    return 0;
}
