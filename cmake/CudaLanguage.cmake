# Enables CUDA for .cu files. nvcc is taken from CUDACXX, the PATH, CUDA_HOME, CUDA_PATH or the toolkit's usual place.
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(GPTQ_HPC_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
  if(NOT GPTQ_HPC_NVCC)
    message(FATAL_ERROR "GPTQ_HPC_CUDA is ON, but there is no nvcc: load the site's CUDA module, set CUDA_HOME, "
                        "or configure with -DGPTQ_HPC_CUDA=OFF (preset cpu)")
  endif()
  set(CMAKE_CUDA_COMPILER ${GPTQ_HPC_NVCC})
endif()
# A100, H100/H200 and Blackwell as machine code; newer devices compile the last one's PTX when the job starts.
set(CMAKE_CUDA_ARCHITECTURES "80-real;90-real;100" CACHE STRING "GPUs to build for, as CMake's CUDA_ARCHITECTURES")
if(CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
endif()
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # some CMakes do not know that nvcc takes C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
find_package(CUDAToolkit 13.0 REQUIRED)
