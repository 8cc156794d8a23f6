#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>

namespace gptq {

/// Streaming SHA-256 (OpenSSL's).
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void update(const void* data, std::size_t bytes);
  std::string hex();  ///< ends the stream; 64 lower-case digits

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string sha256_of_file(const std::filesystem::path& path);  ///< throws IoError

}  // namespace gptq
