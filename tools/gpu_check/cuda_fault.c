/* A GPU that fails in the middle of a job, for tools/gpu_check.sh: preloaded before CUDA's runtime. From the kernel
   launch number GPTQ_CUDA_FAULT on, launches and waits of this process say what an illegal address in a kernel would
   make them say (error 700, which stays). Without the variable every call goes through. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { kIllegalAddress = 700 };

static atomic_long launches;
static atomic_int broken;

static long fault_at(void) {
  const char *text = getenv("GPTQ_CUDA_FAULT");
  return text == NULL ? 0 : atol(text);
}

/* The runtime belongs to a plugin, which is opened for itself alone: RTLD_NEXT does not see it. */
static void *real(const char *name) {
  static const char *const names[] = {"libcudart.so.13", "libcudart.so.12", "libcudart.so.14", NULL};
  for (int i = 0; names[i] != NULL; ++i) {
    void *library = dlopen(names[i], RTLD_NOW | RTLD_NOLOAD);
    if (library != NULL) return dlsym(library, name);
  }
  abort();
}

int cudaLaunchKernelExC(const void *config, const void *function, void **arguments) {
  if (fault_at() > 0 && atomic_fetch_add(&launches, 1) + 1 >= fault_at()) atomic_store(&broken, 1);
  if (atomic_load(&broken)) return kIllegalAddress;
  int (*next)(const void *, const void *, void **) =
      (int (*)(const void *, const void *, void **))real("cudaLaunchKernelExC");
  return next(config, function, arguments);
}

int cudaStreamSynchronize(void *stream) {
  if (atomic_load(&broken)) return kIllegalAddress;
  int (*next)(void *) = (int (*)(void *))real("cudaStreamSynchronize");
  return next(stream);
}

int cudaEventSynchronize(void *event) {
  if (atomic_load(&broken)) return kIllegalAddress;
  int (*next)(void *) = (int (*)(void *))real("cudaEventSynchronize");
  return next(event);
}
