#include "tests/cuda_emulation/symbols.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <vector>

namespace emulation {
namespace {

thread_local int anchor = 0;  ///< tells where the program's thread-local variables lie

struct ThreadVariable {
  std::string name;
  std::uint64_t offset = 0, bytes = 0;
};

struct Symbols {
  std::map<std::uint64_t, std::string> functions;  ///< by address in the file
  std::vector<ThreadVariable> thread_variables;
  std::uint64_t anchor_offset = 0;
};

template <typename T>
std::vector<T> read_table(std::ifstream& file, std::uint64_t offset, std::uint64_t count) {
  std::vector<T> table(count);
  file.seekg(static_cast<std::streamoff>(offset));
  file.read(reinterpret_cast<char*>(table.data()), static_cast<std::streamsize>(count * sizeof(T)));
  return table;
}

const link_map& module_of(const void* address) {
  Dl_info info{};
  void* map = nullptr;
  if (dladdr1(address, &info, &map, RTLD_DL_LINKMAP) == 0) std::abort();
  return *static_cast<const link_map*>(map);
}

/// Of the program or shared object that this emulation was linked into.
Symbols read_symbols() {
  Symbols result;
  const char* path = module_of(reinterpret_cast<const void*>(&module_of)).l_name;
  std::ifstream file(*path == '\0' ? "/proc/self/exe" : path, std::ios::binary);
  const auto header = read_table<Elf64_Ehdr>(file, 0, 1).front();
  const auto sections = read_table<Elf64_Shdr>(file, header.e_shoff, header.e_shnum);
  for (const Elf64_Shdr& section : sections) {
    if (section.sh_type != SHT_SYMTAB) continue;
    const Elf64_Shdr& strings = sections.at(section.sh_link);
    const auto names = read_table<char>(file, strings.sh_offset, strings.sh_size);
    for (const Elf64_Sym& symbol :
         read_table<Elf64_Sym>(file, section.sh_offset, section.sh_size / sizeof(Elf64_Sym))) {
      const char* name = names.data() + symbol.st_name;
      const auto type = ELF64_ST_TYPE(symbol.st_info);
      if (type == STT_FUNC) result.functions.emplace(symbol.st_value, name);
      if (type == STT_TLS) result.thread_variables.push_back({name, symbol.st_value, symbol.st_size});
    }
  }
  for (const ThreadVariable& variable : result.thread_variables)
    if (variable.name.find("emulation") != std::string::npos &&
        variable.name.find("6anchorE") != std::string::npos)
      result.anchor_offset = variable.offset;
  return result;
}

const Symbols& symbols() {
  static const Symbols table = read_symbols();
  return table;
}

std::string demangled(const std::string& name) {
  int status = 0;
  char* text = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
  const std::string result = status == 0 ? text : name;
  std::free(text);
  return result;
}

}  // namespace

std::string function_name(const void* function) {
  const std::uint64_t address = reinterpret_cast<std::uint64_t>(function) - module_of(function).l_addr;
  const auto found = symbols().functions.find(address);
  if (found != symbols().functions.end()) return demangled(found->second);
  char text[32];
  std::snprintf(text, sizeof text, "%p", function);
  return text;
}

std::vector<std::span<std::byte>> shared_arrays() {
  std::vector<std::span<std::byte>> result;
  for (const ThreadVariable& variable : symbols().thread_variables) {
    if (!variable.name.starts_with("_ZZ") || variable.name.find("4cuda") == std::string::npos) continue;
    std::byte* start = reinterpret_cast<std::byte*>(&anchor) + variable.offset - symbols().anchor_offset;
    result.emplace_back(start, variable.bytes);
  }
  return result;
}

}  // namespace emulation
