/// Images that need no download: bars of four directions at random places, some hardly to be seen.
module DataPruning.Generator

open System
open Sama.DataPruning

let images (count: int) (seed: int) : ImageSet =
    let random = Random seed
    let side = 12
    let distance label x y =
        [| x; y; x - y; x + y |][label]

    let image label =
        let at = random.Next(-3, 4)
        let strength = 40.0 + 160.0 * random.NextDouble()

        Array.init (side * side) (fun i ->
            let distance = distance label (i % side - side / 2) (i / side - side / 2) - at
            let bar = if abs distance <= 1 then strength else 0.0
            byte (min 255.0 (bar + 80.0 * random.NextDouble())))

    let labels = Array.init count (fun _ -> random.Next 4)

    { Name = "generated"
      Classes = [| "|"; "-"; "\\"; "/" |]
      Channels = 1
      Height = side
      Width = side
      Ids = Array.init count string
      Labels = labels
      Pixels = labels |> Array.collect image }
