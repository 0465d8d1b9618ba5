internal import CKernels
internal import COpenBLAS
internal import Synchronization

/// What computes: the instruction-set level of the own kernels and OpenBLAS's kernel.
public enum ComputeBackend {
  /// "x86-64-v4", "x86-64-v3" or "generic".
  public static var kernelLevel: String { String(cString: kernels_level()) }

  /// OpenBLAS's name of the kernel that it chose (OPENBLAS_CORETYPE can pin it), for example "SkylakeX".
  public static var openBLASKernel: String { String(cString: openblas_get_corename()) }
}

/// A stretch in which each BLAS call stays on the calling thread, because the work is parted into blocks already.
///
/// The setting is the process's: stretches may overlap, and the last to end restores what was set before the first.
public final class SingleThreadedBLAS: Sendable {
  private static let open = Mutex((count: 0, before: Int32(1)))
  private let isOver = Mutex(false)

  public init() {
    Self.open.withLock { open in
      if open.count == 0 { open.before = openblas_get_num_threads() }
      open.count += 1
      openblas_set_num_threads(1)
    }
  }

  deinit { end() }

  /// Ends the stretch; a second call does nothing.
  public func end() {
    let wasOver = isOver.withLock { over in
      defer { over = true }
      return over
    }
    guard !wasOver else { return }
    Self.open.withLock { open in
      open.count -= 1
      if open.count == 0 { openblas_set_num_threads(open.before) }
    }
  }
}
