/* A library with the name and calls of the CUDA driver for tests of `tangram node verify`: no GPU, no computing.
 * It keeps to the variables of MPS as far as STUB_HOLDS (memory, compute) says; work is sleep. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, OUT_OF_MEMORY = 2, NO_DEVICE = 100, NOT_SUPPORTED = 801, MIB = 1 << 20, TOTAL_MIB = 16384, MULTIPROCESSORS = 100 };

static size_t used;

static int holds(const char *what) {
    const char *told = getenv("STUB_HOLDS");
    return told && strstr(told, what);
}

static size_t limit(void) {
    unsigned long mib;
    const char *told = getenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT");
    if (holds("memory") && told && sscanf(told, "0=%luM", &mib) == 1) return mib * (size_t)MIB;
    return (size_t)TOTAL_MIB * MIB;
}

static int percent(void) {
    const char *told = getenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE");
    return holds("compute") && told ? atoi(told) : 100;
}

int cuInit(unsigned flags) { return flags || getenv("STUB_BROKEN") ? NO_DEVICE : OK; }
int cuDeviceGetCount(int *count) { *count = getenv("STUB_EMPTY") ? 0 : 1; return OK; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return OK; }
int cuDeviceGetName(char *name, int length, int device) { (void)device; snprintf(name, length, "Stub"); return OK; }
int cuDeviceTotalMem_v2(size_t *size, int device) { (void)device; *size = limit(); return OK; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    *value = attribute == 16 ? MULTIPROCESSORS * percent() / 100 : -1;
    return OK;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { (void)device; *context = &used; return OK; }
int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return OK; }
int cuCtxSetCurrent(void *context) { return context == &used ? OK : 201; }
int cuModuleLoadData(void **module, const void *image) {
    *module = (void *)image;
    return strstr(image, ".entry spin") ? OK : 200;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = module;
    return strcmp(name, "spin") ? 500 : OK;
}
int cuMemAlloc_v2(uint64_t *address, size_t size) {
    if (used + size > limit()) return OUT_OF_MEMORY;
    used += size;
    size_t *block = malloc(sizeof *block);
    *block = size;
    *address = (uint64_t)block;
    return OK;
}
int cuMemAllocManaged(uint64_t *address, size_t size, unsigned flags) { /* MPS counts none of it, as long as there is any */
    if (flags != 1) return 1;
    if (getenv("STUB_UNMANAGED")) return NOT_SUPPORTED;
    if (used + size > (size_t)TOTAL_MIB * MIB) return OUT_OF_MEMORY;
    used += size;
    size_t *block = malloc(sizeof *block);
    *block = size;
    *address = (uint64_t)block;
    return OK;
}
int cuMemsetD8_v2(uint64_t address, unsigned char value, size_t size) {
    return value == 1 && size == *(size_t *)address ? OK : 1;
}
int cuMemFree_v2(uint64_t address) {
    used -= *(size_t *)address;
    free((void *)address);
    return OK;
}
int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **parameters, void **extra) {
    uint64_t out = *(uint64_t *)parameters[0];
    uint32_t rounds = *(uint32_t *)parameters[1];
    if (!function || !out || y * z * by * bz != 1 || bx != 256 || shared || stream || extra) return 1;
    usleep((double)x * rounds / 4e9 * 1e6 * 100 / percent());
    return OK;
}
int cuCtxSynchronize(void) { return OK; }
int cuGetErrorName(int code, const char **text) {
    *text = code == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_UNKNOWN";
    return OK;
}
