namespace Sama

open System.IO
open ScottPlot

/// Plots that are written as files.
[<AbstractClass; Sealed>]
type Pictures =

    /// What a picture at this path needs, asked before hours are spent; null asks for none. The drawing library looks for no fonts of
    /// the system by itself: without one it leaves all text out, which is warned of. DirectoryNotFoundException unless a file
    /// can be made there.
    static member Require(path: string) : unit =
        if not (isNull path) then
            Report.requireFolder path
            let folder = "/usr/share/fonts"

            let fonts =
                if Directory.Exists folder then
                    Directory.GetFiles(folder, "*Sans.ttf", SearchOption.AllDirectories)
                else
                    [||]

            if fonts.Length = 0 then
                eprintfn
                    $"warning: no font *Sans.ttf under {folder}, so {path} will have no text: install fonts-dejavu-core"

            // labels of axes are bold, for which the font has another file
            for font in Array.truncate 1 fonts do
                for bold in [ false; true ] do
                    Fonts.AddFontFile("sans", font, bold, false)

                Fonts.Default <- "sans"
