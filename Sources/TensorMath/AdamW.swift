internal import CKernels
internal import Glibc

/// Adam with decoupled weight decay, in the order of operations of torch's fused kernel, bit for bit in f32.
///
/// Source: aten/src/ATen/native/cpu/FusedAdamKernel.cpp of PyTorch 2.15.
public struct AdamW: Sendable {
  public var beta1 = 0.9
  public var beta2 = 0.999
  public var epsilon = 1e-8

  public init() {}

  /// Changes values and moments by one step, the `step`-th, counted from 1. Traps if the counts differ.
  public func update(
    _ values: LentMatrix, gradient: LentMatrix, first: LentMatrix, second: LentMatrix, step: Int, rate: Double,
    decay: Double
  ) {
    precondition(
      gradient.count == values.count && first.count == values.count && second.count == values.count, "counts differ")
    var scalars = kernels_adamw_step(
      decay: decay == 0 ? 1 : Float(1 - rate * decay), first: Float(1 - beta1), second: Float(1 - beta2),
      kept: Float(beta2), correction: Float((1 - pow(beta2, Double(step))).squareRoot()), epsilon: Float(epsilon),
      rate: Float(-rate / (1 - pow(beta1, Double(step)))))
    kernels_adamw(&scalars, values.pointer, gradient.pointer, first.pointer, second.pointer, values.count)
  }
}
