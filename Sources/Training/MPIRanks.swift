#if MPI
  internal import COpenMPI

  /// The programs that `mpirun` started.
  ///
  /// Where a rank is gone, mpirun ends the others; a failed call ends all, by MPI's default.
  public struct MPIRanks: Ranks {
    public let rank: Int
    public let count: Int

    /// Takes part. Once in a program.
    public init() {
      var provided: Int32 = 0
      let serialized = Int32(MPI_THREAD_SERIALIZED)
      // Calls come one at a time, but not always from the same thread.
      MPI_Init_thread(nil, nil, serialized, &provided)
      precondition(provided >= serialized, "this MPI can be called from one thread only")
      var (rank, count): (Int32, Int32) = (0, 0)
      MPI_Comm_rank(openmpi_world(), &rank)
      MPI_Comm_size(openmpi_world(), &count)
      (self.rank, self.count) = (Int(rank), Int(count))
    }

    public func gather(_ bytes: [UInt8]) -> [[UInt8]] {
      var lengths = [Int32](repeating: 0, count: count)
      MPI_Allgather([length(bytes.count)], 1, openmpi_int(), &lengths, 1, openmpi_int(), openmpi_world())
      var places: [Int32] = []
      var total = 0
      for one in lengths {
        places.append(length(total))
        total += Int(one)
      }
      var all = [UInt8](repeating: 0, count: total)
      MPI_Allgatherv(
        bytes, Int32(bytes.count), openmpi_byte(), &all, lengths, places, openmpi_byte(), openmpi_world())
      return zip(places, lengths).map { Array(all[Int($0)..<Int($0 + $1)]) }
    }

    public func gather(_ values: [Float]) -> [Float] {
      var all = [Float](repeating: 0, count: values.count * count)
      let length = length(values.count)
      MPI_Allgather(values, length, openmpi_float(), &all, length, openmpi_float(), openmpi_world())
      return all
    }

    public func exchange(_ values: [Float]) -> [Float] {
      precondition(values.count % count == 0, "the parts are not of one length")
      var all = [Float](repeating: 0, count: values.count)
      let length = length(values.count / count)
      MPI_Alltoall(values, length, openmpi_float(), &all, length, openmpi_float(), openmpi_world())
      return all
    }

    public func end() { MPI_Finalize() }

    public func endAll(code: Int32) { MPI_Abort(openmpi_world(), code) }

    /// MPI counts in 32 bits.
    private func length(_ count: Int) -> Int32 {
      guard let length = Int32(exactly: count) else { preconditionFailure("more than 2³¹ elements for MPI") }
      return length
    }
  }
#endif
