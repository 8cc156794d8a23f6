# The CUDA backend and NCCL. They share one CUDA runtime, because streams of one are used by the other.
file(GLOB cuda_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/cuda/*.cu ${PROJECT_SOURCE_DIR}/kernels/cuda/*.cpp)
gptq_plugin(gptq_hpc_cuda ${cuda_sources} ${PROJECT_SOURCE_DIR}/src/backend/cuda_backend.cpp)
set_target_properties(gptq_hpc_cuda PROPERTIES CUDA_RUNTIME_LIBRARY Shared)
# fmt 9 calls functions that are not constexpr under nvcc from constexpr ones, unless told.
target_compile_definitions(gptq_hpc_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:FMT_USE_CONSTEXPR=1>)
target_compile_options(gptq_hpc_cuda PRIVATE
  "$<$<COMPILE_LANGUAGE:CUDA>:-lineinfo;--expt-relaxed-constexpr;-Xcompiler=-Wall,-Wextra,-Wshadow>"
  $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${GPTQ_HPC_WERROR}>>:-Werror=all-warnings>)
target_link_libraries(gptq_hpc_cuda PRIVATE gptq_kernels CUDA::cudart CUDA::cublasLt CUDA::cusolver ${CMAKE_DL_LIBS})
install(TARGETS gptq_hpc_cuda LIBRARY DESTINATION lib/gptq-hpc)
add_dependencies(gptq-hpc gptq_hpc_cuda)
add_custom_target(gpu_plugins DEPENDS gptq_hpc_cuda)

find_path(NCCL_INCLUDE_DIR nccl.h HINTS ENV NCCL_HOME ${CUDAToolkit_INCLUDE_DIRS} PATH_SUFFIXES include)
find_library(NCCL_LIBRARY NAMES nccl HINTS ENV NCCL_HOME ${CUDAToolkit_LIBRARY_DIR} PATH_SUFFIXES lib lib64)
if(NOT NCCL_INCLUDE_DIR OR NOT NCCL_LIBRARY)
  message(STATUS "NCCL was not found: ranks on several GPUs exchange data through host memory and MPI")
else()
  set(nccl_sources nccl_collectives.cpp nccl_link.cpp run_on_root.cpp)
  list(TRANSFORM nccl_sources PREPEND ${PROJECT_SOURCE_DIR}/src/comm/)
  gptq_plugin(gptq_hpc_nccl ${nccl_sources})
  target_include_directories(gptq_hpc_nccl SYSTEM PRIVATE ${NCCL_INCLUDE_DIR})
  target_link_libraries(gptq_hpc_nccl PRIVATE ${NCCL_LIBRARY} CUDA::cudart)
  install(TARGETS gptq_hpc_nccl LIBRARY DESTINATION lib/gptq-hpc)
  add_dependencies(gptq-hpc gptq_hpc_nccl)
  add_dependencies(gpu_plugins gptq_hpc_nccl)
endif()
