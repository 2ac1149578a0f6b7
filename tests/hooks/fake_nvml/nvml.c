/* A libnvidia-ml.so.1 for tests: it answers as the file named by $FAKE_NVML says.
 *
 * Each line of the file is "key value", values are whole numbers. Of GPU i:
 *   i.<quantity> N           what is read, such as "0.temperature 61"; 0 where nothing is said
 *   i.<function>.return N    the function returns this NVML error
 *   i.<function>.hang 1      it does not return before that line is gone
 *   i.<function>.crash 1     it takes the process down
 *   i.xid N, i.xids N        the code of the last Xid event, and how many there were
 * "count N" is the number of GPUs (0: none), "<function>.return N" is for functions of no GPU.
 * The interface is that of NVIDIA's documentation (NVML API Reference).
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TIMEOUT = 10 };
enum { GPUS = 8, LINKS = 4 };

struct device { int number; };
static struct device devices[GPUS] = {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}};
static struct device parts[GPUS] = {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}};
static long long heard[GPUS]; /* Xid events that were handed out already */

static void rest(void) {
    struct timespec pause = {0, 5000000};
    nanosleep(&pause, NULL);
}

static long long said(const char *key, long long otherwise) {
    const char *name = getenv("FAKE_NVML");
    FILE *file = name ? fopen(name, "r") : NULL;
    char word[128];
    long long value, found = otherwise;
    if (!file) return otherwise;
    while (fscanf(file, "%127s %lld", word, &value) == 2)
        if (!strcmp(word, key)) found = value;
    fclose(file);
    return found;
}

static long long of(const void *device, const char *quantity) {
    char key[160];
    snprintf(key, sizeof key, "%d.%s", ((const struct device *)device)->number, quantity);
    return said(key, 0);
}

static long long about(const void *device, const char *function, const char *what) {
    char name[128];
    snprintf(name, sizeof name, "%s.%s", function, what);
    return device ? of(device, name) : said(name, 0);
}

static int entered(const void *device, const char *function) {
    if (about(device, function, "crash")) raise(SIGSEGV);
    while (about(device, function, "hang")) rest();
    return (int)about(device, function, "return");
}

#define ENTER(device)                                  \
    do {                                               \
        int status = entered((device), __func__);      \
        if (status != SUCCESS) return status;          \
    } while (0)

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    ENTER(NULL);
    for (int i = 0; i < GPUS; i++) heard[i] = of(&devices[i], "xids");
    return SUCCESS;
}
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int error) {
    (void)error;
    return "an error that only the driver knows";
}
int nvmlDeviceGetCount_v2(unsigned *count) {
    ENTER(NULL);
    *count = (unsigned)said("count", 1);
    return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    if (index >= GPUS) return INVALID_ARGUMENT;
    ENTER(&devices[index]);
    *device = &devices[index];
    return SUCCESS;
}
int nvmlDeviceGetUUID(struct device *device, char *uuid, unsigned length) {
    const char *kind = device >= parts && device < parts + GPUS ? "MIG" : "GPU";
    ENTER(device);
    snprintf(uuid, length, "%s-0000000%d-aaaa-bbbb-cccc-0123456789ab", kind, device->number);
    return SUCCESS;
}
struct pci_info { char old[16]; unsigned domain, bus, device, id, subsystem; char name[32]; };
int nvmlDeviceGetPciInfo_v3(void *device, struct pci_info *info) {
    ENTER(device);
    memset(info, 0, sizeof *info);
    info->bus = 0x1au + (unsigned)((struct device *)device)->number;
    return SUCCESS;
}
int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) {
    *count = (unsigned)of(device, "parts");
    return SUCCESS;
}
int nvmlDeviceGetMigDeviceHandleByIndex(struct device *device, unsigned index, void **part) {
    if (index >= (unsigned)of(device, "parts")) return NOT_FOUND;
    *part = &parts[device->number];
    return SUCCESS;
}

struct utilization { unsigned gpu, memory; };
int nvmlDeviceGetUtilizationRates(void *device, struct utilization *used) {
    ENTER(device);
    used->gpu = (unsigned)of(device, "utilization");
    used->memory = (unsigned)of(device, "memory_utilization");
    return SUCCESS;
}
struct memory { unsigned long long total, free, used; };
int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory) {
    ENTER(device);
    memory->used = (unsigned long long)of(device, "memory_used");
    return SUCCESS;
}
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
    (void)sensor;
    ENTER(device);
    *celsius = (unsigned)of(device, "temperature");
    return SUCCESS;
}
struct field { unsigned id, scope; long long time, latency; int type, status; unsigned long long value; };
int nvmlDeviceGetFieldValues(void *device, int count, struct field *fields) {
    for (int i = 0; i < count; i++) {
        fields[i].status = entered(device, __func__);
        fields[i].type = 1;
        fields[i].value = (unsigned long long)of(device, "memory_temperature");
    }
    return SUCCESS;
}
int nvmlDeviceGetClockInfo(void *device, int type, unsigned *megahertz) {
    ENTER(device);
    *megahertz = (unsigned)of(device, type == 1 ? "clock" : "memory_clock");
    return SUCCESS;
}
int nvmlDeviceGetTotalEccErrors(void *device, int error, int counter, unsigned long long *count) {
    const char *names[2][2] = {{"corrected_volatile", "corrected_aggregate"},
                               {"uncorrected_volatile", "uncorrected_aggregate"}};
    ENTER(device);
    *count = (unsigned long long)of(device, names[error][counter]);
    return SUCCESS;
}
int nvmlDeviceGetRemappedRows(void *device, unsigned *correctable, unsigned *uncorrectable,
                              unsigned *pending, unsigned *failure) {
    ENTER(device);
    *correctable = (unsigned)of(device, "rows_correctable");
    *uncorrectable = (unsigned)of(device, "rows_uncorrectable");
    *pending = (unsigned)of(device, "remap_pending");
    *failure = (unsigned)of(device, "remap_failure");
    return SUCCESS;
}
int nvmlDeviceGetNvLinkState(void *device, unsigned link, unsigned *active) {
    ENTER(device);
    if (link >= LINKS) return INVALID_ARGUMENT;
    *active = link < (unsigned)of(device, "links");
    return SUCCESS;
}
int nvmlDeviceGetNvLinkErrorCounter(void *device, unsigned link, int counter,
                                    unsigned long long *count) {
    char name[32];
    ENTER(device);
    snprintf(name, sizeof name, "replays_%u", link);
    *count = counter == 0 ? (unsigned long long)of(device, name) : 999;
    return SUCCESS;
}

#define NUMBER(function, type, quantity)            \
    int function(void *device, type *value) {       \
        ENTER(device);                              \
        *value = (type)of(device, quantity);        \
        return SUCCESS;                             \
    }
NUMBER(nvmlDeviceGetPowerUsage, unsigned, "power")
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned, "power_limit")
NUMBER(nvmlDeviceGetPcieReplayCounter, unsigned, "pcie_replays")
#ifdef OLD_DRIVER
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, "throttling")
#else
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, "throttling")
#endif

struct event { void *device; unsigned long long type, data; unsigned gpu_instance, compute_instance; };
static unsigned registered;
int nvmlEventSetCreate(void **set) {
    static int only;
    ENTER(NULL);
    *set = &only;
    return SUCCESS;
}
int nvmlDeviceRegisterEvents(struct device *device, unsigned long long types, void *set) {
    (void)set;
    ENTER(device);
    if (types != 8) return NOT_SUPPORTED;
    registered |= 1u << device->number;
    return SUCCESS;
}
int nvmlEventSetWait_v2(void *set, struct event *event, unsigned milliseconds) {
    (void)set;
    ENTER(NULL);
    for (unsigned waited = 0; waited < milliseconds; waited += 5, rest())
        for (int i = 0; i < GPUS; i++)
            if (registered >> i & 1 && of(&devices[i], "xids") > heard[i]) {
                heard[i]++;
                memset(event, 0, sizeof *event);
                event->device = &devices[i];
                event->type = 8;
                event->data = (unsigned long long)of(&devices[i], "xid");
                return SUCCESS;
            }
    return TIMEOUT;
}
