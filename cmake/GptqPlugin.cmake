# Plugins: shared modules for what needs libraries that plain nodes lack, opened by the program when needed
# (src/base/plugin.h). They lie beside the program in the build, in lib/gptq-hpc when installed.

# What program and plugins must agree on: a plugin that was built from other headers is refused.
set(interface_headers "")
foreach(header base/device_buffer.h base/dtype.h base/error.h base/tensor.h backend/backend.h backend/cuda_plugin.h
               comm/communicator.h comm/device_collectives.h comm/nccl_plugin.h)
  if(EXISTS ${PROJECT_SOURCE_DIR}/src/${header})
    list(APPEND interface_headers ${PROJECT_SOURCE_DIR}/src/${header})
  endif()
endforeach()
list(APPEND interface_headers ${PROJECT_SOURCE_DIR}/kernels/kernels.h)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${interface_headers})
set(interface_hash "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
foreach(header ${interface_headers})
  file(SHA256 ${header} hash)
  string(APPEND interface_hash ${hash})
endforeach()
string(SHA256 interface_hash "${interface_hash}")
string(SUBSTRING ${interface_hash} 0 12 interface_hash)
set_source_files_properties(${PROJECT_SOURCE_DIR}/src/base/plugin.cpp PROPERTIES COMPILE_DEFINITIONS
                            "GPTQ_HPC_PLUGIN_IDENTITY=\"${PROJECT_VERSION}, interface ${interface_hash}\"")

# gptq_plugin(name sources…): the module name.so in the build's root. Every symbol must be found when it is linked, and
# its own copies of the program's functions are its own.
function(gptq_plugin name)
  add_library(${name} MODULE ${ARGN})
  set_target_properties(${name} PROPERTIES PREFIX "" LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}
                        INSTALL_RPATH "$ORIGIN;$ORIGIN/..")
  target_link_libraries(${name} PRIVATE gptq_flags gptq_base)
  target_link_options(${name} PRIVATE LINKER:-z,defs LINKER:-Bsymbolic-functions)
endfunction()
