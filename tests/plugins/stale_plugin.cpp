/// A plugin that an earlier build left behind; backend_plugin_test.cpp.
extern "C" {

const char* gptq_hpc_plugin_identity() {
  return "0.0.1, interface 000000000000";
}

void* gptq_hpc_cuda_backend(const void*) {
  __builtin_trap();  // never called
}
}
