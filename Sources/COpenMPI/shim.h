#include <mpi.h>

// Macros that Swift does not see.
static inline MPI_Comm openmpi_world(void) { return MPI_COMM_WORLD; }
static inline MPI_Datatype openmpi_byte(void) { return MPI_BYTE; }
static inline MPI_Datatype openmpi_int(void) { return MPI_INT; }
static inline MPI_Datatype openmpi_float(void) { return MPI_FLOAT; }
