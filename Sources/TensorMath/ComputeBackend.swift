internal import CKernels
internal import COpenBLAS

/// What computes: the instruction-set level of the own kernels and OpenBLAS's kernel.
public enum ComputeBackend {
  /// "x86-64-v4", "x86-64-v3" or "generic".
  public static var kernelLevel: String { String(cString: kernels_level()) }

  /// OpenBLAS's name of the kernel that it chose (OPENBLAS_CORETYPE can pin it), for example "SkylakeX".
  public static var openBLASKernel: String { String(cString: openblas_get_corename()) }

  /// Keeps each BLAS call on the calling thread: this package parallelises over blocks.
  public static func useOneThreadInsideBLAS() { openblas_set_num_threads(1) }
}
