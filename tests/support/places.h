#pragma once

#include <filesystem>
#include <string>

/// Where the tests find what belongs to them: in the tree that they were built from, or, in a bundle, where the
/// environment says. These paths are compiled into places.cpp alone, so that a compiler cache serves all clones.
namespace gptq::test {

std::filesystem::path fixtures();
std::string program();
std::filesystem::path configs();
std::string stale_plugin();
std::string emulated_plugin();  ///< empty: there is none, as no CUDA headers were found

}  // namespace gptq::test
