namespace Sama.Functional

open System
open System.Collections.Generic
open TorchSharp
open Sama

/// The types of numbers that a safetensors file may hold.
module internal SafetensorsTypes =

    /// The format's types: bits of an element, and libtorch's type where there is one.
    let private types =
        [ "F64", 64L, Some torch.ScalarType.Float64
          "F32", 32L, Some torch.ScalarType.Float32
          "F16", 16L, Some torch.ScalarType.Float16
          "BF16", 16L, Some torch.ScalarType.BFloat16
          "I64", 64L, Some torch.ScalarType.Int64
          "I32", 32L, Some torch.ScalarType.Int32
          "I16", 16L, Some torch.ScalarType.Int16
          "I8", 8L, Some torch.ScalarType.Int8
          "U8", 8L, Some torch.ScalarType.Byte
          "BOOL", 8L, Some torch.ScalarType.Bool
          "C64", 64L, Some torch.ScalarType.ComplexFloat32
          "U64", 64L, None
          "U32", 32L, None
          "U16", 16L, None
          for name in [ "F8_E5M2"; "F8_E4M3"; "F8_E8M0"; "F8_E4M3FNUZ"; "F8_E5M2FNUZ" ] do
              name, 8L, None
          "F6_E2M3", 6L, None
          "F6_E3M2", 6L, None
          "F4", 4L, None ]

    let known = types |> List.map (fun (name, bits, kind) -> name, (bits, kind)) |> dict

    /// libtorch's type of a dtype, if it has one.
    let scalarType (dtype: string) : torch.ScalarType option = snd known[dtype]

    /// The format's name of a libtorch type. ArgumentException if it has none.
    let dtypeOf (kind: torch.ScalarType) : string =
        match types |> List.tryFind (fun (_, _, own) -> own = Some kind) with
        | Some(name, _, _) -> name
        | None -> invalidArg (nameof kind) $"safetensors has no type for {kind}"

    /// Bytes of so many elements; OverflowException beyond 2⁶³.
    let sizeOf (dtype: string) (shape: int64 seq) : int64 =
        let elements = shape |> Seq.fold (fun product n -> Checked.(*) product n) 1L
        let bits = Checked.(*) elements (fst known[dtype])

        if bits % 8L <> 0L then
            raise (OverflowException "the elements do not fill whole bytes")

        bits / 8L
