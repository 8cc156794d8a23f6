#pragma once

/// Run-time choice among the three builds of the files in this folder. Each such file defines a table of
/// function pointers in namespace gptq::GPTQ_ISA (isa_v2, isa_v3 or isa_v4, set by CMake); the caller picks
/// one by isa_level():
///
///     struct RowTable { void (*scale)(float* row, long n, float by); };         // rows.h: no inline, no
///     templates namespace isa_v2 { extern const RowTable row_table; }                     // likewise
///     isa_v3, isa_v4 const RowTable* const tables[] = {&isa_v2::row_table, &isa_v3::row_table,
///     &isa_v4::row_table}; const RowTable& table = *tables[isa_level()];
namespace gptq {

/// 0: x86-64-v2 (SSE4.2), 1: v3 (AVX2, FMA), 2: v4 (AVX-512); the best this machine runs, found once. The
/// environment variable GPTQ_HPC_ISA (v2, v3, v4) lowers it, for tests.
int isa_level();

const char* isa_name();  ///< "x86-64-v4"

}  // namespace gptq
