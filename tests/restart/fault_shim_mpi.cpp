// The collectives, as fault_shim.cpp has the calls on files. A collective that fails here never started on
// this rank: to the others it looks like a rank that stays away. Messages are not counted: RankWatch sends
// its own by the clock, so no number would mean the same one twice.
#include <mpi.h>

#include "restart/fault_plan.h"

using namespace gptq::test;

namespace {

template <typename Call>
int guarded(const char* name, Call&& call) {
  switch (fault_at(FaultKind::mpi, name, {})) {
    case FaultMode::eio:
    case FaultMode::enospc:
      return MPI_ERR_OTHER;
    case FaultMode::kill:
    case FaultMode::torn:
    case FaultMode::power:
      die_now();
    case FaultMode::hang:
      hang_forever();
    case FaultMode::kill_after:
      call();
      die_now();
    default:
      return call();
  }
}

}  // namespace

extern "C" {

int MPI_Barrier(MPI_Comm comm) {
  return guarded("MPI_Barrier", [&] { return PMPI_Barrier(comm); });
}

int MPI_Ibarrier(MPI_Comm comm, MPI_Request* request) {
  return guarded("MPI_Ibarrier", [&] { return PMPI_Ibarrier(comm, request); });
}

int MPI_Bcast(void* data, int count, MPI_Datatype type, int root, MPI_Comm comm) {
  return guarded("MPI_Bcast", [&] { return PMPI_Bcast(data, count, type, root, comm); });
}

int MPI_Ibcast(void* data, int count, MPI_Datatype type, int root, MPI_Comm comm, MPI_Request* request) {
  return guarded("MPI_Ibcast", [&] { return PMPI_Ibcast(data, count, type, root, comm, request); });
}

int MPI_Allreduce(const void* mine, void* all, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm) {
  return guarded("MPI_Allreduce", [&] { return PMPI_Allreduce(mine, all, count, type, op, comm); });
}

int MPI_Iallreduce(const void* mine, void* all, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
                   MPI_Request* request) {
  return guarded("MPI_Iallreduce",
                 [&] { return PMPI_Iallreduce(mine, all, count, type, op, comm, request); });
}

int MPI_Allgather(const void* mine, int count, MPI_Datatype type, void* all, int count_each,
                  MPI_Datatype type_each, MPI_Comm comm) {
  return guarded("MPI_Allgather",
                 [&] { return PMPI_Allgather(mine, count, type, all, count_each, type_each, comm); });
}

int MPI_Iallgather(const void* mine, int count, MPI_Datatype type, void* all, int count_each,
                   MPI_Datatype type_each, MPI_Comm comm, MPI_Request* request) {
  return guarded("MPI_Iallgather", [&] {
    return PMPI_Iallgather(mine, count, type, all, count_each, type_each, comm, request);
  });
}

int MPI_Ialltoall(const void* mine, int count, MPI_Datatype type, void* all, int count_each,
                  MPI_Datatype type_each, MPI_Comm comm, MPI_Request* request) {
  return guarded("MPI_Ialltoall", [&] {
    return PMPI_Ialltoall(mine, count, type, all, count_each, type_each, comm, request);
  });
}

}  // extern "C"
