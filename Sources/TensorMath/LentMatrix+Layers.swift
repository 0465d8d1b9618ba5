internal import CKernels

/// A norm of rows, as far as its kernels need to know it.
public enum RowNorm: Sendable {
  /// x / √(mean x² + ε) · (w + plus).
  case rootMeanSquare(weight: [Float], plus: Float, epsilon: Float)
  /// (x - mean) / √(variance + ε) · w + b; without parameters if the arrays are empty.
  case centred(weight: [Float], bias: [Float], epsilon: Float)

  private static let pieceRows = 16

  /// The norm of each stretch of `width` columns; of each row if `width` is nil.
  public func callAsFunction(_ x: LentMatrix, width: Int? = nil, in workspace: Workspace) -> LentMatrix {
    let y = workspace.matrix(x.rows, x.columns)
    let width = width ?? x.columns
    check(width, columns: x.columns)
    compute(x.pointer, y.pointer, count: x.count, width: width)
    return y
  }

  /// The same for a matrix of its own memory.
  public func callAsFunction(_ x: Matrix<Float>, width: Int? = nil) -> Matrix<Float> {
    var y = x
    let width = width ?? x.columns
    guard !x.values.isEmpty else { return y }
    check(width, columns: x.columns)
    y.values.withUnsafeMutableBufferPointer { values in
      if let base = values.baseAddress { compute(base, base, count: values.count, width: width) }
    }
    return y
  }

  /// `from` may be `to`: a row's sums are taken before the row is written.
  private func compute(
    _ from: UnsafePointer<Float>, _ to: UnsafeMutablePointer<Float>, count: Int, width: Int
  ) {
    // Soundness: each task reads and writes its own rows, and `check` holds the widths.
    nonisolated(unsafe) let (from, to) = (from, to)
    Parallel.forEachPiece(of: count / max(1, width), size: Self.pieceRows) { start, count in
      let place = start * width
      switch self {
      case .rootMeanSquare(let weight, let plus, let epsilon):
        kernels_rms_norm(from + place, weight, plus, count, width, epsilon, to + place)
      case .centred(let weight, let bias, let epsilon):
        Self.lending(weight) { w in
          Self.lending(bias) { b in kernels_layer_norm(from + place, w, b, count, width, epsilon, to + place) }
        }
      }
    }
  }

  /// Adds to `gradient` what `g`, the gradient of the norm of x, means for x.
  public func addGradient(of x: LentMatrix, _ g: LentMatrix, width: Int? = nil, to gradient: LentMatrix) {
    let width = width ?? x.columns
    precondition(g.count == x.count && gradient.count == x.count, "extents differ")
    nonisolated(unsafe) let (from, above, to) = (x.pointer, g.pointer, gradient.pointer)
    check(width, columns: x.columns)
    Parallel.forEachPiece(of: x.count / max(1, width), size: Self.pieceRows) { start, count in
      let place = start * width
      switch self {
      case .rootMeanSquare(let weight, let plus, let epsilon):
        kernels_rms_norm_gradient(from + place, weight, plus, above + place, count, width, epsilon, to + place)
      case .centred(let weight, _, let epsilon):
        Self.lending(weight) { w in
          kernels_layer_norm_gradient(from + place, w, above + place, count, width, epsilon, to + place)
        }
      }
    }
  }

  /// Adds to the gradients of weight and bias what `g` means for them.
  public func addParameterGradients(
    of x: LentMatrix, _ g: LentMatrix, width: Int? = nil, weight: LentMatrix, bias: LentMatrix?
  ) {
    let width = width ?? x.columns
    precondition(g.count == x.count && weight.count == width, "extents differ")
    precondition(bias == nil || bias?.count == width, "extents differ")
    let (isCentred, epsilon): (Int32, Float) =
      switch self {
      case .rootMeanSquare(_, _, let epsilon): (0, epsilon)
      case .centred(_, _, let epsilon): (1, epsilon)
      }
    kernels_norm_parameters(
      isCentred, x.pointer, g.pointer, x.count / max(1, width), width, epsilon, weight.pointer, bias?.pointer)
  }

  private func check(_ width: Int, columns: Int) {
    precondition(width > 0 && columns % width == 0, "the width does not divide the columns")
    switch self {
    case .rootMeanSquare(let weight, _, _): precondition(weight.count == width, "the weight does not fit")
    case .centred(let weight, let bias, _):
      precondition(weight.isEmpty || weight.count == width, "the weight does not fit")
      precondition(bias.isEmpty || bias.count == width, "the bias does not fit")
    }
  }

  private static func lending(_ values: [Float], _ body: (UnsafePointer<Float>?) -> Void) {
    if values.isEmpty { body(nil) } else { values.withUnsafeBufferPointer { body($0.baseAddress) } }
  }
}

/// A function of each element that has a vectorised kernel, and a slope for training. The table of all functions that models name is PEFT's.
public enum ActivationKernel: Sendable {
  case relu, silu, tanhGELU, gelu, tanh, quickGELU

  private var kind: Int32 {
    switch self {
    case .relu: Int32(kernels_relu_function)
    case .silu: Int32(kernels_silu_function)
    case .tanhGELU: Int32(kernels_tanh_gelu_function)
    case .gelu: Int32(kernels_gelu_function)
    case .tanh: Int32(kernels_tanh_function)
    case .quickGELU: Int32(kernels_quick_gelu_function)
    }
  }

  /// f(a) · b, or f(a) without b. Traps if the extents differ.
  public func callAsFunction(_ a: LentMatrix, times b: LentMatrix? = nil, in workspace: Workspace) -> LentMatrix {
    precondition(b == nil || b?.count == a.count, "extents differ")
    let result = workspace.matrix(a.rows, a.columns)
    nonisolated(unsafe) let (first, second, to) = (a.pointer, b?.pointer, result.pointer)
    Parallel.forEachPiece(of: a.count, size: 1 << 12) { start, count in
      kernels_activate(kind, first + start, second.map { $0 + start }, to + start, count)
    }
    return result
  }

  /// f of each element of a matrix, in place.
  public func apply(to x: inout Matrix<Float>) {
    x.values.withUnsafeMutableBufferPointer { values in
      guard let base = values.baseAddress else { return }
      // Soundness: each task changes its own piece.
      nonisolated(unsafe) let pointer = base
      Parallel.forEachPiece(of: values.count, size: 1 << 12) { start, count in
        kernels_activate(kind, pointer + start, nil, pointer + start, count)
      }
    }
  }

  /// Puts the gradients of a and b in their places; g is the gradient of f(a) · b. Traps if the extents differ.
  public func replaceByGradients(_ a: LentMatrix, _ b: LentMatrix?, _ g: LentMatrix) {
    precondition(g.count == a.count && (b == nil || b?.count == a.count), "extents differ")
    nonisolated(unsafe) let (first, second, above) = (a.pointer, b?.pointer, g.pointer)
    Parallel.forEachPiece(of: a.count, size: 1 << 12) { start, count in
      kernels_activate_gradient(kind, above + start, first + start, second.map { $0 + start }, count)
    }
  }
}

/// Turns of heads' halves against each other by the angles of each row's position.
///
/// Source: transformers `apply_rotary_pos_emb`.
private func rotateRows(
  _ values: UnsafeMutablePointer<Float>, rows: Int, columns: Int, width: Int, cosines: [Float], sines: [Float],
  back: Bool
) {
  let half = width / 2
  precondition(width > 0 && columns % width == 0 && cosines.count == rows * half && sines.count == rows * half)
  // Soundness: each task changes its own row; extents were checked above.
  nonisolated(unsafe) let to = values
  cosines.withUnsafeBufferPointer { cosines in
    sines.withUnsafeBufferPointer { sines in
      nonisolated(unsafe) let (c, s) = (cosines, sines)
      Parallel.forEach(rows) { row in
        guard let c = c.baseAddress, let s = s.baseAddress else { return }
        kernels_rotate(to + row * columns, columns, width, c + row * half, s + row * half, back ? -1 : 1)
      }
    }
  }
}

extension LentMatrix {
  /// Turns each head's first half against its second by the angles of each row's position, or back.
  ///
  /// - Parameter cosines: `[rows, width / 2]`, as are the sines.
  public func rotate(width: Int, cosines: [Float], sines: [Float], back: Bool = false) {
    rotateRows(pointer, rows: rows, columns: columns, width: width, cosines: cosines, sines: sines, back: back)
  }
}

extension Matrix<Float> {
  /// Turns each head's first half against its second by the angles of each row's position.
  ///
  /// - Parameter cosines: `[rows, width / 2]`, as are the sines.
  public mutating func rotate(width: Int, cosines: [Float], sines: [Float]) {
    let (rows, columns) = (rows, columns)
    values.withUnsafeMutableBufferPointer { values in
      guard let base = values.baseAddress else { return }
      rotateRows(base, rows: rows, columns: columns, width: width, cosines: cosines, sines: sines, back: false)
    }
  }
}
