#include "kernels/cpu/packed.h"

#include <unordered_map>

#include "base/error.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/library.h"

namespace gptq {
namespace {

using Desc = dnnl::memory::desc;
using Tag = dnnl::memory::format_tag;

constexpr std::int64_t kLayoutRows = 256;  // the height of product that layouts are chosen for

struct Key {
  std::int64_t m, n, k;
  DType in, out;
  bool bias, accumulate;
  bool operator==(const Key&) const = default;
};

struct Hash {
  std::size_t operator()(const Key& key) const {
    std::size_t h = 0;
    for (const std::int64_t v : {key.m, key.n, key.k})
      h = (h ^ static_cast<std::size_t>(v)) * 0x9e3779b97f4a7c15u;
    return h ^ (key.bias * 1u + key.accumulate * 2u + (key.in == DType::bf16) * 4u +
                (key.out == DType::bf16) * 8u);
  }
};

/// The layout is a function of (k, n, dtype) alone, so that a product found in the cache fits every such
/// matrix.
const Desc& layout(std::int64_t k, std::int64_t n, DType dtype) {
  thread_local std::unordered_map<Key, Desc, Hash> layouts;
  const Key key{0, n, k, dtype, dtype, false, false};
  auto found = layouts.find(key);
  if (found == layouts.end()) {
    found = layouts.emplace(key, LibraryProduct::preferred_layout(kLayoutRows, n, k, dtype)).first;
  }
  return found->second;
}

LibraryProduct make(const Key& key) {
  const Desc bias = key.bias ? Desc({1, key.n}, dnnl::memory::data_type::f32, Tag::ab) : Desc();
  return LibraryProduct(Desc({key.m, key.k}, library_type(key.in), Tag::ab), layout(key.k, key.n, key.in),
                        bias, Desc({key.m, key.n}, library_type(key.out), Tag::ab), key.accumulate);
}

struct Reorder {
  dnnl::memory source;
  dnnl::reorder primitive;
};

/// A reorder from a dense matrix to `target`'s layout; kept per thread, as attention fills many of one shape.
Reorder& reorder_to(const PackedMatrix& target, bool transposed) {
  thread_local std::unordered_map<Key, Reorder, Hash> reorders;
  const Key key{0, target.n(), target.k(), target.dtype(), target.dtype(), transposed, false};
  auto found = reorders.find(key);
  if (found == reorders.end()) {
    const Desc dense({target.k(), target.n()}, library_type(target.dtype()), transposed ? Tag::ba : Tag::ab);
    Reorder made;
    made.source = dnnl::memory(dense, library_engine(), DNNL_MEMORY_NONE);
    made.primitive = dnnl::reorder(made.source, target.memory());
    found = reorders.emplace(key, std::move(made)).first;
  }
  return found->second;
}

}  // namespace

std::size_t PackedMatrix::bytes(std::int64_t k, std::int64_t n, DType dtype) {
  keep_library_on_this_thread();
  return layout(k, n, dtype).get_size();
}

PackedMatrix::PackedMatrix(std::int64_t k, std::int64_t n, DType dtype)
    : k_(k), n_(n), dtype_(dtype), storage_(bytes(k, n, dtype)) {
  memory_ = dnnl::memory(layout(k, n, dtype), library_engine(), storage_.data());
}

PackedMatrix::PackedMatrix(std::int64_t k, std::int64_t n, DType dtype, void* data)
    : k_(k), n_(n), dtype_(dtype), memory_(layout(k, n, dtype), library_engine(), data) {}

void PackedMatrix::fill(const void* source, bool transposed) {
  keep_library_on_this_thread();
  Reorder& reorder = reorder_to(*this, transposed);
  reorder.source.set_data_handle(const_cast<void*>(source));
  reorder.primitive.execute(library_stream(), reorder.source, memory_);
}

void packed_product(std::int64_t m, const void* a, const PackedMatrix& b, const dnnl::memory& bias, void* c,
                    DType c_type, bool accumulate) {
  thread_local std::unordered_map<Key, LibraryProduct, Hash> products;
  const Key key{m, b.n(), b.k(), b.dtype(), c_type, static_cast<bool>(bias), accumulate};
  auto found = products.find(key);
  if (found == products.end()) found = products.emplace(key, make(key)).first;
  found->second.run(a, b.memory(), bias, c);
}

}  // namespace gptq
