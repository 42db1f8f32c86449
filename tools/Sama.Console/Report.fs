namespace Sama

open System.IO
open System.Text.Json
open System.Text.Json.Serialization

/// A program's results as a file of one JSON object a line, from which a later call goes on.
module Report =

    // an AUROC is not a number where all labels are right
    let private json =
        JsonSerializerOptions(NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals)

    /// Rows of a file; none if there is no such file. InvalidDataException naming the line that is no row.
    let read<'row> (path: string) : 'row list =
        [ if File.Exists path then
              for number, line in Array.indexed (File.ReadAllLines path) ->
                  try
                      JsonSerializer.Deserialize<'row>(line, json)
                  with :? JsonException as e ->
                      raise (InvalidDataException $"{path}, line {number + 1}, is no row of this program: {e.Message}") ]

    /// All rows, written beside their place and moved there.
    let write (path: string) (rows: 'row list) : unit =
        let part = path + ".part"
        File.WriteAllLines(part, [ for row in rows -> JsonSerializer.Serialize(row, json) ])
        File.Move(part, path, true)

    /// DirectoryNotFoundException unless a file can be made there: asked before hours are spent.
    let requireFolder (path: string) : unit =
        if not (Directory.Exists(Path.GetDirectoryName(Path.GetFullPath path))) then
            raise (DirectoryNotFoundException $"the folder of {path} does not exist")
